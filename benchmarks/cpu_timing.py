"""Clocks of the CPU benchmarks: contenders take turns in one process, for a number of seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# Turns that every contender has, however long they take.
LEAST = 3
Call = Callable[[], object]


def interleaved(
    contenders: Mapping[str, Call], seconds: float, calls_in_a_row: int = 1
) -> dict[str, list[float]]:
    """Return milliseconds of each contender's calls, some in a row a turn, until `seconds` pass.

    A first turn of one call is not timed. On one thread the clock is the thread's own, which other
    work on the machine does not stretch.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    turns, end = 0, time.perf_counter() + seconds
    while turns < LEAST or time.perf_counter() < end:
        turns += 1
        for name, call in contenders.items():
            for _ in range(calls_in_a_row):
                start = clock()
                call()
                times[name].append(1e3 * (clock() - start))
    return times


def summed_up(times: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return each contender's median and quartiles, as rows of result files hold them."""
    return {
        "ms": {name: statistics.median(found) for name, found in times.items()},
        "quartiles": {name: spread(found) for name, found in times.items()},
    }


def spread(times: list[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    first, _, third = statistics.quantiles(times, n=4)
    return first, third
