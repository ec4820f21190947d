"""Clocks: contenders timed in turn, in one process, by medians and what lies around them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Rounds that every race has, and seconds for each contender after which it ends.
LEAST = 5
SECONDS = 0.6
QUANTILES = {"p10_us": 0.1, "median_us": 0.5, "p90_us": 0.9}

Call = Callable[[], object]


class NotMeasured(Exception):
    """There is no number here, and why."""


@dataclass(frozen=True)
class Work:
    """A contender.

    Attributes:
        call: what it does.
        captured: whether a CUDA graph of it is replayed, so that the host's part does not count.
        runs: how many times a captured graph does it, one after the other.
    """

    call: Call
    captured: bool = False
    runs: int = 1


class Clock(ABC):
    """Times contenders side by side, `repetitions` rounds after `warmups`."""

    warmups = 3
    repetitions = 50

    def race(self, works: Mapping[str, Work], cold: bool = False) -> dict[str, Any]:
        """Return `times` by name, in microseconds for one run, and `without`: who dropped out, why.

        The first contender is ours: its error ends the race.

        Args:
            cold: whether each call finds an L2 cache that holds none of its operands.

        Raises:
            NotMeasured: there is nobody to time.
        """
        calls, without = self._ready(works)
        if not calls:
            raise NotMeasured(next(iter(without.values())))
        samples: dict[str, list[float]] = {name: [] for name in calls}
        deadline = time.perf_counter() + SECONDS * len(calls)
        for done in range(self.repetitions):
            if done >= LEAST and time.perf_counter() > deadline:
                break
            readings = {name: self._timed(call, cold) for name, call in calls.items()}
            for name, reading in readings.items():
                samples[name].append(reading() / works[name].runs)
        times = {name: _summary(taken) for name, taken in samples.items()}
        return {"times": times, **({"without": without} if without else {})}

    def _ready(self, works: Mapping[str, Work]) -> tuple[dict[str, Call], dict[str, str]]:
        calls, without = {}, {}
        for place, (name, work) in enumerate(works.items()):
            try:
                call = self.captured(work.call, work.runs) if work.captured else work.call
                for _ in range(self.warmups):
                    call()
                calls[name] = call
            except NotMeasured as reason:
                without[name] = str(reason)
            except Exception as error:
                if place == 0:
                    raise
                without[name] = brief(error)
        return calls, without

    @abstractmethod
    def captured(self, call: Call, runs: int = 1) -> Call:
        """Return what replays a CUDA graph of `runs` calls."""

    @abstractmethod
    def _timed(self, call: Call, cold: bool) -> Callable[[], float]:
        """Start a call; return what waits for its end and gives its microseconds."""

    @abstractmethod
    def alive(self) -> bool:
        """Return whether the device still answers; a fault in a kernel ends that for a process."""


class WallClock(Clock):
    """For rehearsals on a CPU: its numbers are no measurements."""

    warmups = 1
    repetitions = 1

    def captured(self, call: Call, runs: int = 1) -> Call:
        raise NotMeasured("a CPU has no CUDA graphs")

    def _timed(self, call: Call, cold: bool) -> Callable[[], float]:
        started = time.perf_counter()
        call()
        elapsed = time.perf_counter() - started
        return lambda: 1e6 * elapsed

    def alive(self) -> bool:
        return True


class DeviceClock(Clock):
    """CUDA events."""

    def __init__(self) -> None:
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 * 2**20)
        self._swept = torch.ones(2 * cache // 4, device="cuda")
        self._sum = torch.zeros((), device="cuda")

    def captured(self, call: Call, runs: int = 1) -> Call:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warmups):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(runs):
                call()
        return graph.replay

    def _timed(self, call: Call, cold: bool) -> Callable[[], float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if cold:
            # Read, not written: dirty lines would be written back while the call is timed.
            torch.sum(self._swept, dim=0, out=self._sum)
        start.record()
        call()
        end.record()

        def reading() -> float:
            end.synchronize()
            return 1e3 * start.elapsed_time(end)

        return reading

    def alive(self) -> bool:
        try:
            torch.cuda.synchronize()
            return bool((self._sum * 0 == 0).item())
        except RuntimeError:
            return False


def brief(error: Exception, length: int = 400) -> str:
    """Return `error` in a line of at most `length` characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:length]


def _summary(samples: list[float]) -> dict[str, float]:
    ranked = sorted(samples)
    quantiles = {
        name: round(ranked[round(share * (len(ranked) - 1))], 3)
        for name, share in QUANTILES.items()
    }
    return {**quantiles, "repetitions": len(ranked)}
