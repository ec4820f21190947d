"""What the benchmarks of single operators share: the device, the clock, the compiler."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.gpu.timing import brief

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS, DENSE, AUTHORS, EAGER, COMPILED = "gemkern", "dense", "authors", "eager", "compiled"
# Of a benchmark; and how many rounds it has at least and at most.
SECONDS, LEAST, MOST = 0.5, 5, 50
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., object])


def timed(benchmark: BenchmarkFixture, work: Callable[[], object]) -> None:
    """Time `work` for about SECONDS, the device's queue drained at the end of each round."""

    def drained() -> None:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    drained()
    started = time.perf_counter()
    drained()
    rounds = int(SECONDS / (time.perf_counter() - started))
    benchmark.pedantic(drained, rounds=min(max(rounds, LEAST), MOST))


def compiled(function: Function) -> Function:
    """Return what torch.compile makes of a function, with nothing left of earlier ones."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def first_result(contender: str, work: Callable[[], Result]) -> Result:
    """Return what a contender gives; leave the compiled one out where there is no compiler."""
    try:
        return work()
    except Exception as error:
        if contender != COMPILED:
            raise
        pytest.skip(f"torch.compile does not work here: {brief(error)}")
