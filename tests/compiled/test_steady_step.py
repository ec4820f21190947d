"""A step that is like the one before launches its kernels, and asks the device for nothing else.

Kernels are left out: what counts is what happens around them, on the host and beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gemkern.kernels import kept
from gemkern.kernels.gpu import score_step, straight_through, threshold
from torch import Tensor
from triton.runtime.jit import JITFunction
from untraced import untraced

from benchmarks.gpu.baselines import (
    State,
    eager_score_step,
    number,
    our_score_step,
    random_state,
)
from benchmarks.gpu.shapes import weights_of
from benchmarks.gpu.uses import served_by_gpu
from gemkern import ops

# What a captured graph would repeat, or wait for, beside the kernels.
BESIDE = {
    "aten::copy_", "aten::_to_copy", "aten::fill_", "aten::zero_", "aten::full", "aten::ones",
    "aten::zeros", "aten::_local_scalar_dense",
}  # fmt: skip
CPU = torch.device("cpu")


class Reused:
    """An allocator that gives every step the same memory, as that of a GPU does."""

    def __init__(self) -> None:
        self._make = torch.empty_like
        self._made: list[Tensor] = []
        self._given = 0

    def begin(self) -> None:
        self._given = 0

    def empty_like(self, like: Tensor, **options: Any) -> Tensor:
        if self._given == len(self._made):
            self._made.append(self._make(like, **options))
        self._given += 1
        return self._made[self._given - 1]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched, none of which runs."""
    names: list[str] = []
    monkeypatch.setattr(JITFunction, "run", lambda self, *_, **__: names.append(self.fn.__name__))
    return names


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is brought to the device: tables, plans and numbers."""
    brought: list[Any] = []
    fill = kept.filled
    noted = lambda numbers, *of: brought.append(numbers) or fill(numbers, *of)  # noqa: E731
    monkeypatch.setattr(kept, "filled", noted)
    monkeypatch.setattr("gemkern.kernels.gpu.tables.filled", noted)
    monkeypatch.setattr(kept, "_kept", {})
    return brought


@pytest.fixture
def served() -> Iterator[None]:
    with served_by_gpu():
        yield


def unfused_step(of: State) -> int:
    """Do what an eager step asks of unfused layers, one by one; return how many operators it is."""
    lr, l2 = (number(rate, CPU) for rate in (0.1, 1e-3))
    layers = list(zip(of.weights, of.scores, of.active, of.grads, strict=True))
    for weight, scores, active, _ in layers:
        threshold.effective_weight([weight], [scores], [active], dtype=torch.bfloat16)
    for weight, scores, active, grad in reversed(layers):
        threshold.effective_weight([weight], [scores], [active], dtype=torch.bfloat16)
        straight_through.straight_through([grad], [weight], [active])
    score_step.score_step_sgd(
        of.scores, of.active, of.grads, of.buffers, None, None, lr, l2, 0.9, False
    )
    return 3 * len(layers) + 1


def beside(run: Callable[[], object]) -> set[str]:
    """Return what of BESIDE ran."""
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages()} & BESIDE


def test_layer_by_layer_a_step_is_one_launch_an_operator(
    launches: list[str], fills: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = random_state(weights_of("resnet18"), "cpu", torch.bfloat16)
    memory = Reused()
    monkeypatch.setattr(torch, "empty_like", memory.empty_like)
    operators = unfused_step(of)
    assert len(fills) > operators, "tables, plans and the threshold are made in the first step"
    fills.clear()
    launches.clear()
    memory.begin()
    assert beside(lambda: unfused_step(of)) == set()
    assert fills == []
    assert len(launches) == operators


def test_the_whole_model_at_once_is_one_launch(
    launches: list[str], fills: list[Any], served: None
) -> None:
    of = random_state(weights_of("resnet20"), "cpu", torch.bfloat16)
    our_score_step(of)
    fills.clear()
    launches.clear()
    assert beside(lambda: our_score_step(of)) == set()
    assert fills == []
    assert launches == ["score_step_sgd_kernel"]


def test_numbers_of_the_host_are_brought_once(launches: list[str], served: None) -> None:
    of = random_state(weights_of("resnet20"), "cpu", torch.bfloat16)
    memory = {"lr": 0.1, "l2": 1e-3}

    def call() -> None:
        ops.threshold(of.scores, of.active, 0.5)
        ops.effective_weight(of.weights, of.scores, of.active)
        ops.score_step_sgd(*of.lists(), **memory)

    call()
    assert beside(call) == set()


def test_the_host_asks_for_a_score_step_in_time(launches: list[str], served: None) -> None:
    """Of as many layers as ResNet-20 has: sooner than for the fewest calls of PyTorch's own.

    On one number a layer these compute next to nothing. Measured: 150 of 400 us.
    """
    of = random_state([(1,)] * 20, "cpu", torch.float32)

    def least(call: Callable[[], object]) -> float:
        taken = []
        for _ in range(200):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return min(taken)

    with untraced():
        ours, eager = least(lambda: our_score_step(of)), least(lambda: eager_score_step(of))
    assert ours < 0.7 * eager
