"""Clocks: contenders timed in turn, in one process, by medians and what lies around them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gemkern.training.graphs import CudaGraphs

# Rounds that every race has, and seconds for each contender after which it ends.
LEAST = 5
SECONDS = 0.6
# Cycles that keep the device busy, a third of a millisecond, until the host is seen to be late.
CYCLES, MOST_CYCLES = 500_000, 60_000_000
QUANTILES = {"p10_us": 0.1, "median_us": 0.5, "p90_us": 0.9}

Call = Callable[[], object]


class NotMeasured(Exception):
    """There is no number here, and why."""


class CaptureFailed(Exception):
    """A call could not be captured, which may have spoilt every later graph and random number."""


# How a contender is run: from Python, on an idle device; from Python, on a device kept busy until
# the host is through; as a replayed CUDA graph, likewise. The host counts in the first alone.
CALLED, QUEUED, CAPTURED = "called", "queued", "captured"
NO_GRAPHS = "a CPU has no CUDA graphs"


@dataclass(frozen=True)
class Work:
    """A contender: what it does, and how it is run."""

    call: Call
    how: str = CALLED


def in_ways(hows: Sequence[str], calls: Mapping[str, Call]) -> dict[str, Work]:
    """Return every call run in every way, named "call, way"."""
    return {f"{name}, {how}": Work(call, how) for name, call in calls.items() for how in hows}


class Clock(ABC):
    """Times contenders side by side, `repetitions` rounds after `warmups`.

    Attributes:
        barred: contenders that are left out, by name, and why.
    """

    warmups = 3
    repetitions = 50
    barred: Mapping[str, str] = {}

    def race(self, works: Mapping[str, Work], cold: bool = False) -> dict[str, Any]:
        """Return `times` by name, in microseconds, and `without`: who dropped out, and why.

        Args:
            cold: whether each call finds an L2 cache that holds none of its operands.

        Raises:
            NotMeasured: there is nobody to time.
            CaptureFailed: one of them could not be captured: it is barred from now on.
        """
        calls: dict[str, Call] = {}
        without = {name: why for name, why in self.barred.items() if name in works}
        for name, work in works.items():
            if name in without:
                continue
            try:
                calls[name] = self._ready(work)
            except CaptureFailed as failed:
                self.barred = {**self.barred, name: str(failed)}
                raise
            except Exception as error:
                without[name] = str(error) if isinstance(error, NotMeasured) else brief(error)
        if not calls:
            raise NotMeasured(next(iter(without.values())))
        samples: dict[str, list[float]] = {name: [] for name in calls}
        deadline = time.perf_counter() + SECONDS * len(calls)
        for done in range(self.repetitions):
            if done >= LEAST and time.perf_counter() > deadline:
                break
            readings = {
                name: self._timed(call, cold, works[name].how != CALLED)
                for name, call in calls.items()
            }
            for name, reading in readings.items():
                samples[name].append(reading())
        times = {name: summary(taken) for name, taken in samples.items()}
        return {"times": times, **({"without": without} if without else {})}

    def _ready(self, work: Work) -> Call:
        call = self.captured(work.call) if work.how == CAPTURED else work.call
        for _ in range(self.warmups):
            call()
        return call

    @abstractmethod
    def captured(self, call: Call) -> Call:
        """Return what replays a CUDA graph of a call."""

    @abstractmethod
    def _timed(self, call: Call, cold: bool, queued: bool) -> Callable[[], float]:
        """Start a call; return what waits for its end and gives its microseconds."""

    @abstractmethod
    def alive(self) -> bool:
        """Return whether the device still computes, replays graphs and draws random numbers.

        A fault in a kernel, or a capture that failed, may end that for a process.
        """


class WallClock(Clock):
    """For rehearsals on a CPU: its numbers are no measurements."""

    warmups = 1
    repetitions = 1

    def captured(self, call: Call) -> Call:
        raise NotMeasured(NO_GRAPHS)

    def _timed(self, call: Call, cold: bool, queued: bool) -> Callable[[], float]:
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
        self._cycles = CYCLES
        self._graphs = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
        self._count = torch.zeros((), device="cuda")
        self._beat = self.captured(lambda: self._count.add_(1))

    def captured(self, call: Call) -> Call:
        for _ in range(self.warmups):
            self._graphs.warm_up(call)
        try:
            return self._graphs.capture(call)
        except Exception as error:
            # The end of a capture that has failed fails too.
            raise CaptureFailed(brief(error.__context__ or error)) from error

    def race(self, works: Mapping[str, Work], cold: bool = False) -> dict[str, Any]:
        self._cycles = CYCLES
        return super().race(works, cold)

    def _timed(self, call: Call, cold: bool, queued: bool) -> Callable[[], float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        while True:
            if cold:
                # Read, not written: dirty lines would be written back while the call is timed.
                torch.sum(self._swept, dim=0, out=self._sum)
            if queued:
                torch.cuda._sleep(self._cycles)
            else:
                torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            on_time = not queued or not start.query()
            if on_time or self._cycles >= MOST_CYCLES:
                break
            self._cycles *= 2

        def reading() -> float:
            end.synchronize()
            return 1e3 * start.elapsed_time(end)

        return reading

    def alive(self) -> bool:
        try:
            self._count.zero_()
            self._beat()
            drawn = torch.rand((), device="cuda")
            return bool(((self._count == 1) & (drawn < 1)).item())
        except RuntimeError:
            return False


def brief(error: BaseException, length: int = 400) -> str:
    """Return `error` in a line of at most `length` characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:length]


def summary(samples: list[float]) -> dict[str, float]:
    """Return quantiles of `samples`, in microseconds, and their number."""
    ranked = sorted(samples)
    quantiles = {
        name: round(ranked[round(share * (len(ranked) - 1))], 3)
        for name, share in QUANTILES.items()
    }
    return {**quantiles, "repetitions": len(ranked)}
