"""The examples go on after an interruption as if there had been none."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import gemkern as gk

ROOT = Path(__file__).parents[1]
EPOCHS, STEPS_OF_EPOCH = 3, 20


@functools.cache
def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def masks_without_interruption(name: str, accelerated: bool | str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        return example(name).mine(folder, epochs=EPOCHS, accelerated=accelerated).masks


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of each step that a search takes."""
    taken: list[int] = []
    step = gk.GemMiner.step

    def count(miner: gk.GemMiner) -> None:
        taken.append(miner.epoch)
        step(miner)

    monkeypatch.setattr(gk.GemMiner, "step", count)
    return taken


@pytest.mark.filterwarnings("error:.* is not accelerated")
@pytest.mark.parametrize("accelerated", [False, "always"])
@pytest.mark.parametrize(
    ("name", "stop_after", "checkpoint"),
    [
        ("in_lightning", 50, 40),
        ("in_accelerate", 50, 40),
        # Within an epoch, and after the last step of one.
        ("in_trainer", 35, 30),
        ("in_trainer", 45, 40),
    ],
)
def test_an_interrupted_search_goes_on_to_the_same_ticket(
    name: str,
    stop_after: int,
    checkpoint: int,
    accelerated: bool | str,
    steps: list[int],
    tmp_path: Path,
) -> None:
    expected = masks_without_interruption(name, accelerated)
    module = example(name)
    with pytest.raises(module.Interrupted):
        module.mine(tmp_path, epochs=EPOCHS, stop_after=stop_after, accelerated=accelerated)
    steps.clear()
    masks = module.mine(tmp_path, epochs=EPOCHS, resume=True, accelerated=accelerated).masks
    # It did go on: begun anew, it would come to the same ticket.
    assert steps == [step // STEPS_OF_EPOCH for step in range(checkpoint, EPOCHS * STEPS_OF_EPOCH)]
    assert masks.keys() == expected.keys()
    assert all(torch.equal(masks[layer], expected[layer]) for layer in expected)


def test_the_command_in_the_docstring_runs() -> None:
    found = re.search(r"^    python (\S+)$", example("in_accelerate").__doc__ or "", re.MULTILINE)
    assert found is not None
    run = subprocess.run(
        [sys.executable, found[1]], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "went on to a ticket of 5.00% of the weights\n"
