"""`gemkern check`: a ticket beside what sanity checks make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from command import call

from gemkern.experiments.run_folder import RunFolder
from gemkern.tickets import Ticket

SHORT = [
    "--data", "digits", "--train-limit", "128", "--device", "cpu",
    "--set", "batch_size=32", "--set", "mine_epochs=2", "--set", "freeze_every=1",
    "--set", "imp_epochs=1", "--set", "imp_prune=0.5", "--set", "imp_rewind=init",
    "--set", "finetune_epochs=1", "--set", "accelerate=never",
]  # fmt: skip
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tickets of two methods."""
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for command in ("mine", "imp"):
            out = tmp_path_factory.mktemp(command)
            assert call(monkeypatch, command, *SHORT, "--density", "0.3", "--out", out) == 0
            (found[command],) = out.glob("*.ticket.safetensors")
    return found


def test_a_ticket_is_finetuned_beside_its_checks(
    tickets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Captured,
) -> None:
    words = ["check", tickets["imp"], *SHORT, "--seeds", "2", "--out", tmp_path]
    assert call(monkeypatch, *words) == 0
    said = capfd.readouterr().out
    for check in ("shuffled", "reinitialised", "random"):
        assert re.search(rf"^{check}: .* points \(95 % interval", said, re.MULTILINE)
    folder = RunFolder.load(tmp_path)
    methods = ("imp", "shuffled", "reinitialised", "random")
    assert sorted((run.method, run.seed) for run in folder.runs()) == sorted(
        (method, seed) for method in methods for seed in (0, 1)
    )
    base = Ticket.load(tickets["imp"])
    found = {key: Ticket.load(path) for key, path in folder.tickets().items()}
    for (method, _), ticket in found.items():
        assert ticket.layer_density == base.layer_density
        same = all(torch.equal(ticket.masks[name], base.masks[name]) for name in base.masks)
        assert same is (method == "reinitialised")
    begun_anew = found["reinitialised", 0]
    assert begun_anew.weights is not None
    weight = begun_anew.weights[f"{next(iter(base.masks))}.weight"]
    assert len(weight.abs().unique()) > 1, "from IMP's own distribution, not signed constants"
    assert begun_anew.checksum != found["reinitialised", 1].checksum
    assert call(monkeypatch, *words, "--resume") == 0


def test_score_inversion_is_a_search_of_its_own(
    tickets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    words = ["--seeds", "1", "--checks", "inverted", "--out", tmp_path]
    assert call(monkeypatch, "check", tickets["mine"], *SHORT, *words) == 0
    assert re.search(r"^inverted: .* with one seed, which", capfd.readouterr().out, re.MULTILINE)
    folder = RunFolder.load(tmp_path)
    (inverted,) = [run for run in folder.runs() if run.method == "inverted"]
    assert (inverted.find_epochs, inverted.finetune_epochs) == (2, 1)
    mined = Ticket.load(tickets["mine"])
    assert Ticket.load(folder.tickets()["inverted", 0]).weights_left == mined.weights_left


def test_what_cannot_be_checked_is_refused_before_a_folder_is_made(
    tickets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    for words, message in (
        ([*tickets.values()], "tickets of gem-miner, imp cannot be checked together"),
        ([tickets["imp"], "--checks", "imp"], "'imp' is not a sanity check"),
        ([tmp_path / "none"], "there is no ticket file"),
    ):
        assert call(monkeypatch, "check", *words, *SHORT, "--out", tmp_path / "out") == 2
        (sentence,) = capfd.readouterr().err.splitlines()
        assert message in sentence
    assert not (tmp_path / "out").exists()
