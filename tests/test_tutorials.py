"""The scripts of the tutorials run by the command in their docstring and do what they promise."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_examples import example

import gemkern as gk
from gemkern.experiments.run_folder import RunFolder

# Kernels may have to be compiled, and ranks and workers import PyTorch, on cores that may be busy.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
TICKET = "digits.ticket.safetensors"
TORCHRUN = ["torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]


def said(name: str, folder: Path) -> str:
    """Return what an example prints that is started as it says, in `folder`."""
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    (\w+ .*examples/\w+\.py)$", text, re.MULTILINE)
    starter, *words = shlex.split(command)
    starts = {"python": [], "torchrun": ["-m", *TORCHRUN]}
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    # The host's name need not lead to an address of this machine.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(
        [sys.executable, *starts[starter], *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def shares(text: str) -> list[float]:
    """Return the shares that a text gives in percent."""
    return [float(share) / 100 for share in re.findall(r"([\d.]+)%", text)]


def test_a_ticket_for_an_own_model(tmp_path: Path) -> None:
    text = said("own_model", tmp_path)
    assert "without a stop the same: True\n" in text
    (accuracy,) = shares(text)
    assert 0.75 < accuracy <= 1, "one in ten by chance"
    folder = tmp_path / "runs" / "own_model"
    assert gk.Ticket.load(folder / TICKET).density == pytest.approx(0.05, abs=0.001)
    stopped, whole = (torch.load(folder / name) for name in ("stopped.pt", "whole.pt"))
    assert stopped["miner"]["epoch"] == whole["miner"]["epoch"] == 6
    for name, one in whole["model"].items():
        assert torch.equal(stopped["model"][name], one), name


def test_a_search_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("own_model")
    epochs: list[int] = []
    end_epoch = gk.GemMiner.end_epoch

    def count(miner: gk.GemMiner) -> None:
        epochs.append(miner.epoch)
        end_epoch(miner)

    monkeypatch.setattr(gk.GemMiner, "end_epoch", count)
    module.mine(tmp_path / "search.pt", stop_after=2)
    assert epochs == [0, 1]
    miner = module.mine(tmp_path / "search.pt", stop_after=4)
    assert epochs == [0, 1, 2, 3]
    with pytest.raises(gk.GemkernError, match="has finished 4 of 6 epochs"):
        miner.ticket()


def test_a_model_that_torch_has_pruned(tmp_path: Path) -> None:
    text = said("from_torch_prune", tmp_path)
    trained, pruned, density, finetuned, zero = shares(text)
    assert trained > 0.85
    assert finetuned > max(pruned, 0.85)
    assert density == pytest.approx(0.1, abs=0.001)
    assert zero == pytest.approx(1 - density, abs=0.001), "what was pruned stayed zero"
    assert "the same bits: True\n" in text
    assert "accelerated, the same up to rounding: True\n" in text


def test_edge_popup_chooses_as_by_hand(tmp_path: Path) -> None:
    text = said("from_hidden_networks", tmp_path)
    by_hand, popup, same, popup_finetuned, kept, _, other, miner_finetuned, _ = shares(
        re.sub(r"([\d.]+) %", r"\1%", text)
    )
    assert by_hand > 0.35, "one in ten by chance"
    # What rounds otherwise may move a few weights across the border.
    assert popup == pytest.approx(by_hand, abs=0.05)
    assert same > 0.999
    assert other < 0.9, "Gem-Miner's choice is its own"
    assert min(popup_finetuned, miner_finetuned) > 0.75
    assert kept == pytest.approx(0.3, abs=0.001)


def test_ranks_come_to_one_ticket(tmp_path: Path) -> None:
    text = said("under_ddp", tmp_path)
    assert text.startswith("2 ranks came to 1 ticket: <Ticket of gem-miner"), text
    ticket = gk.Ticket.load(tmp_path / "runs" / "under_ddp" / TICKET)
    assert ticket.density == pytest.approx(0.1, abs=0.001)
    assert not ticket.empty_layers
    model = example("under_ddp").build()
    ticket.apply(model)
    assert gk.density(model) == ticket.density


@pytest.fixture
def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for what Ray keeps; its name is short, for sockets."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    # Ray would leave one in the home folder.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-test" * 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


SBATCH = """#!/bin/bash
# Runs what is submitted at once, task by task; what it prints is the number of the job.
tasks=1
for word in "$@"; do
    case $word in
        --array=1-*) tasks=${word#--array=1-} ;;
        --dependency=afterok:*) [ "${word#--dependency=afterok:}" = 7 ] ;;
    esac || exit 1
done
for task in $(seq "$tasks"); do
    SLURM_ARRAY_TASK_ID=$task bash -ec "${!#}" >&2 || exit 1
done
echo 7
"""


def test_a_race_on_slurm(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", '#!/bin/bash\nexec "$@"\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        [
            *("bash", str(ROOT / "examples" / "on_slurm.sh"), "runs/on_slurm"),
            # Kernels would be loaded by every job.
            *("--set", "accelerate=never"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    folder = RunFolder.load(tmp_path / "runs" / "on_slurm")
    assert not folder.left()
    assert {(one.method, one.seed) for one in folder.runs()} == {
        (method, seed) for method in ("gem-miner", "random") for seed in (0, 1)
    }
    assert "gem-miner" in run.stderr, "the table of the last job"


def test_a_race_on_ray(quiet_ray: Path, tmp_path: Path) -> None:
    text = said("on_ray", tmp_path)
    assert list(quiet_ray.glob("ray/session_*")), "a cluster was there"
    accuracies = dict(re.findall(r"^([\w-]+): ([\d.]+)% of the test images", text, re.MULTILINE))
    assert accuracies.keys() == {"gem-miner", "random"}
    assert all(float(one) > 75 for one in accuracies.values()), accuracies
    folder = tmp_path / "runs" / "on_ray"
    for method in accuracies:
        ticket = gk.Ticket.load(folder / f"{method}-seed0.ticket.safetensors")
        assert ticket.density == pytest.approx(0.1, abs=0.001)
        assert f"{method}-seed0.ticket.safetensors: {ticket}\n" in text
