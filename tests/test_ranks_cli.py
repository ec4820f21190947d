"""Processes that train one network together, as `torchrun` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import call, wait_for
from ranks_apart import on_every_rank
from torch import nn

from gemkern.experiments.run_folder import RunFolder
from gemkern.tickets import Ticket
from gemkern.training.synced_norms import sync_norms

# Each starts processes that import PyTorch, on cores that may be busy.
pytestmark = pytest.mark.timeout(900)

MINE = [
    "mine", "--data", "digits", "--train-limit", "128", "--density", "0.2", "--device", "cpu",
    "--set", "batch_size=32", "--set", "mine_epochs=4", "--set", "freeze_every=1",
    "--set", "score_optimizer=sgd", "--set", "score_lr=20.0", "--set", "accelerate=never",
]  # fmt: skip
TICKET = "gem-miner-seed0.ticket.safetensors"


def together(*arguments: str | Path, ranks: int = 2, **options: Any) -> subprocess.Popen[str]:
    """Start `gemkern ARGUMENTS` on two ranks."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
        "--master-addr", "127.0.0.1", "--master-port", "0", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "127.0.0.1:0", "-m", "gemkern", *map(str, arguments),
    ]  # fmt: skip
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, output + errors
    return output + errors


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, *MINE, "--out", out) == 0
    return out


def agreement(one: Path, other: Path) -> float:
    """Return which share of the masks' entries two tickets agree on."""
    ours, theirs = Ticket.load(one / TICKET).masks, Ticket.load(other / TICKET).masks
    same = sum(int((ours[name] == theirs[name]).sum()) for name in ours)
    return same / sum(mask.numel() for mask in ours.values())


def test_two_ranks_come_to_what_one_process_comes_to(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    said = finished(together(*MINE, "--out", out))
    assert said.count("kept 14") == 1, "one of them speaks"
    ours, theirs = RunFolder.load(out).epochs(), RunFolder.load(alone).epochs()
    assert [record.density for record in ours] == [record.density for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
    # Sums round otherwise: of the weights that stand at the border of a freeze, some fall.
    assert agreement(out, alone) > 0.999
    mined = Ticket.load(out / TICKET)
    assert mined.checksum == Ticket.load(alone / TICKET).checksum


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_of_two_ranks_is_gone_on_with_by_any_number(
    tmp_path: Path, alone: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    # At a rate at which what rounds otherwise is not blown up from epoch to epoch.
    slow = ["--set", "score_lr=1.0"]
    long = [*MINE, *slow, "--set", "mine_epochs=40", "--set", "freeze_every=10"]
    process = together(*long, "--out", out)
    epochs_file = out / "epochs.jsonl"
    wait_for(lambda: epochs_file.exists() and epochs_file.read_text(), process, 300)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode != 0
    done = len(RunFolder.load(out).epochs())
    assert 1 <= done < 40
    if ranks == 1:
        assert call(monkeypatch, "mine", "--out", out, "--resume") == 0
    else:
        finished(together("mine", "--out", out, "--resume"))
    epochs = [record.epoch for record in RunFolder.load(out).epochs()]
    assert epochs == list(range(1, 41))
    whole = tmp_path / "whole"
    assert call(monkeypatch, *long, "--out", whole) == 0
    assert agreement(out, whole) > 0.99


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    process = together(*MINE, "--set", "batch_size=33", "--out", tmp_path / "run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "a batch of 33 images cannot be shared by 2 ranks" in errors


def normed(rank: int) -> list[Any]:
    """Return what a batch norm makes of one rank's share, its gradients and its statistics."""
    found = []
    for module, shape in ((nn.BatchNorm2d(3), (8, 3, 4, 4)), (nn.BatchNorm1d(3), (8, 3))):
        stream = torch.Generator().manual_seed(0)
        x, pull = (torch.randn(shape, generator=stream) for _ in range(2))
        if rank >= 0:
            sync_norms(module)
            x, pull = x[4 * rank : 4 * rank + 4], pull[4 * rank : 4 * rank + 4]
        x = x.clone().requires_grad_()
        y = module(x)
        (y * pull).sum().backward()
        grads = [module.weight.grad, module.bias.grad]
        found.append([y.detach(), x.grad, grads, module.running_mean, module.running_var])
        found[-1].append(module.eval()(x).detach())
    return found


def test_norms_of_ranks_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    shares, whole = on_every_rank(normed, tmp_path), normed(-1)
    for i, expected in enumerate(whole):
        first, second = shares[0][i], shares[1][i]
        for part in (0, 1, 5):
            torch.testing.assert_close(torch.cat([first[part], second[part]]), expected[part])
        for ours, theirs, of_all in zip(first[2], second[2], expected[2], strict=True):
            torch.testing.assert_close(ours + theirs, of_all)
        for part in (3, 4):
            torch.testing.assert_close(first[part], expected[part])
            assert torch.equal(first[part], second[part])
