"""Rows, one after the other, inside a budget of seconds, whatever fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.compilations import compilations
from benchmarks.gpu.result import FAILED, MEASURED, NOT_MEASURED, Entry, Result
from benchmarks.gpu.shapes import Shapes
from benchmarks.gpu.timing import CaptureFailed, Clock, NotMeasured, brief

# Seconds that torch.compile may take.
COMPILING = 60
ENDED = "the process ended while this was measured"


class DeviceLost(Exception):
    """This process can trust the device no more, after a fault or a capture that failed."""


@dataclass
class Bench:
    """What rows need: where to compute, on which shapes, by which clock, and what is known."""

    device: str
    shapes: Shapes
    clock: Clock
    result: Result
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"

    @property
    def narrow(self) -> torch.dtype:
        """The dtype of 16 bits; Triton's interpreter does bfloat16 wrong."""
        return torch.float16 if self.rehearsal else torch.bfloat16

    def require_compiler(self) -> None:
        """Check that `torch.compile` is worth calling: on a GPU, with a minute left.

        Raises:
            NotMeasured: it is not.
        """
        if self.rehearsal:
            raise NotMeasured("a rehearsal compiles nothing")
        if self.left() < COMPILING:
            raise NotMeasured(f"{self.left():.0f} s are too few to compile in")

    def left(self) -> float:
        """Return how many seconds are left."""
        return self.seconds - (time.monotonic() - self.started)


class Row:
    """One line of a section: what measures it, called with a bench and what the line is `of`."""

    def __init__(self, measure: Callable[..., Entry], **of: Any) -> None:
        self.measure = measure
        self.of = of
        self.name = " ".join(str(value) for value in of.values())


Plan = Callable[[Bench], Iterable[Row]]


def run_section(bench: Bench, section: str, plan: Plan) -> None:
    """Measure the rows that `plan` names and that are not settled yet.

    Raises:
        DeviceLost: no further row can be measured in this process.
    """
    try:
        for row in plan(bench):
            if not bench.result.settled(section, row.name):
                _measure(bench, section, row)
    except DeviceLost:
        raise
    except Exception as error:
        bench.result.add(section, "plan", {"status": FAILED, "reason": brief(error)})


def _measure(bench: Bench, section: str, row: Row) -> None:
    """Measure a row; without the contenders that another process could not capture."""
    known = bench.result.find(section, row.name).get("barred", {})
    bench.clock.barred = known
    # What stands there if this row takes the process with it.
    bench.result.add(section, row.name, {"status": FAILED, "reason": ENDED})
    entry = _outcome(bench, row)
    barred = bench.clock.barred
    bench.result.add(section, row.name, {**entry, "barred": barred} if barred else entry)
    dropped = entry["status"] == FAILED or entry.get("without", {})
    if barred != known or (dropped and not bench.clock.alive()):
        why = entry.get("reason") or "; ".join(entry["without"].values())
        raise DeviceLost(f"{section}, {row.name}: {why}")


def _outcome(bench: Bench, row: Row) -> Entry:
    began = time.monotonic()
    barred = bench.clock.barred
    entry = {
        name: value if isinstance(value, int) else str(value) for name, value in row.of.items()
    }
    with compilations() as compiled:
        try:
            if bench.left() <= 0:
                raise NotMeasured("out of time")
            entry |= {"status": MEASURED, **row.measure(bench, **row.of)}
        except NotMeasured as reason:
            entry |= {"status": NOT_MEASURED, "reason": str(reason)}
        except CaptureFailed as failed:
            # Another process tries again without who failed; where nobody races there is no other.
            again = bench.clock.barred != barred
            entry["status"] = NOT_MEASURED if again else FAILED
            entry["reason"] = f"not captured: {failed}"
        except Exception as error:
            entry |= {"status": FAILED, "reason": brief(error)}
    if compiled.kernels:
        entry |= {"compiled": compiled.kernels, "compile_s": round(compiled.seconds, 2)}
    return {**entry, "seconds": round(time.monotonic() - began, 2)}
