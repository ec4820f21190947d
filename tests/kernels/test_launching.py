"""Kernels are launched where their operands lie, and by one function alone."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from gemkern.kernels.gpu.launching import INTERPRETER, chip_of, launch, standing_in

KERNELS = Path(__file__).resolve().parents[2] / "kernels" / "gpu"


class Recorded:
    """A kernel that notes on which device it is launched, and with what."""

    def __init__(self, current: Callable[[], int]) -> None:
        self.launches: list[tuple[int, Any, Any, Any]] = []
        self._current = current

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **constants: self.launches.append(
            (self._current(), grid, arguments, constants)
        )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A process that stands on device 0."""
    current = [0]

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", on)
    return Recorded(lambda: current[0])


def test_a_kernel_runs_on_the_device_of_its_operands(kernel: Recorded) -> None:
    launch(kernel, (3, 2), torch.device("cuda", 1), "x", BLOCK=8)
    launch(kernel, (3,), torch.device("cuda", 0), "y")
    launch(kernel, (3,), torch.device("cpu"), "z")
    assert kernel.launches == [
        (1, (3, 2), ("x",), {"BLOCK": 8}),
        (0, (3,), ("y",), {}),
        (0, (3,), ("z",), {}),
    ]


def test_nothing_to_do_is_no_launch(kernel: Recorded) -> None:
    for grid in ((0,), (0, 2), (2, 0)):
        launch(kernel, grid, torch.device("cuda", 0))
    assert kernel.launches == []


def test_what_is_no_gpu_stands_in_for_one() -> None:
    cpu, large = torch.device("cpu"), INTERPRETER._replace(processors=7)
    with standing_in(large):
        assert chip_of(cpu) == large
    assert chip_of(cpu) == INTERPRETER


def launched_otherwise(source: str) -> list[str]:
    """Return what a file launches by itself: a call of something with a grid in brackets."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    found = [node.func.value for node in calls if isinstance(node.func, ast.Subscript)]
    return [ast.unparse(kernel) for kernel in found if ast.unparse(kernel).endswith("kernel")]


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.name)
def test_no_launcher_forgets_the_device(path: Path) -> None:
    found = launched_otherwise(path.read_text(encoding="utf-8"))
    assert found == (["kernel", "kernel"] if path.name == "launching.py" else [])


def test_a_launch_past_the_guard_is_seen() -> None:
    assert launched_otherwise("threshold_kernel[(3,)](x, BLOCK=8)") == ["threshold_kernel"]
