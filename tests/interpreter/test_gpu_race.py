"""The race through the Triton kernels: the tickets of the reference, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import call

TINY = (
    *("race", "--data", "digits", "--model", "resnet8", "--seeds", "1", "--train-limit", "32"),
    *("--methods", "gem-miner,imp,random", "--density", "0.3"),
    *("--set", "batch_size=32", "--set", "mine_epochs=3", "--set", "freeze_every=1"),
    *("--set", "finetune_epochs=1", "--set", "imp_epochs=1", "--set", "imp_prune=0.6"),
)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_finds_the_tickets_of_the_reference(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = {}
    for backend in ("gpu", "reference"):
        monkeypatch.setenv("GEMKERN_BACKEND", backend)
        folder = tmp_path / backend
        assert (
            call(monkeypatch, *TINY, "--set", f"score_optimizer={optimizer}", "--out", folder) == 0
        )
        tickets[backend] = {
            path.name: path.read_bytes() for path in folder.glob("*.ticket.safetensors")
        }
    assert len(tickets["gpu"]) == 3
    assert tickets["gpu"] == tickets["reference"]
