"""The harness's own account: what a call would take at most, and what one has taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks import result_files
from benchmarks.gpu import cores, run, sanitize, shapes, trainer
from benchmarks.gpu.bars import plain_table
from benchmarks.gpu.bench import COMPILING, Bench
from benchmarks.gpu.compiling import NAME, kept
from benchmarks.gpu.result import Result
from benchmarks.gpu.timing import SECONDS, WallClock

# Seconds: of a row, for its operands, its checks and what runs before it is timed; of a process,
# for its imports, the device and the first of everything.
ROW, START = 1.0, 20.0
# Of rows that take longer: the package's own training has rounds and, before them, checks.
ROW_OF = {
    trainer.SECTION: trainer.SECONDS + 15.0,
    sanitize.SECTION: sanitize.SECONDS,
    cores.SECTION: cores.EXPECTED,
    run.COMPILED_STEP: COMPILING,
    run.COMPILED_ELEMENTWISE: COMPILING,
}
# Cores of the machine that a GPU is in.
CORES = 16


class Planned(NamedTuple):
    """A section: its rows, those who race in each, its kernels, and its seconds at most."""

    section: str
    rows: int
    contenders: int
    kernels: int
    seconds: float


def planned(result: Result, sections: Sequence[str]) -> list[Planned]:
    """Return what `sections` would take at most; `result` is that of a rehearsal.

    A rehearsal has fewer rows, with as many contenders as a GPU would have.
    """
    bench = Bench("cuda", shapes.full(), WallClock(), result, seconds=0.0)
    kernels = kept().values()
    found = []
    for section in sections:
        rows = len(list(run.SECTIONS[section](bench)))
        racing = max(
            (len(row.get("times", {})) + len(row.get("without", {})) for row in result.of(section)),
            default=0,
        )
        count = sum(kernel.serves(section) for kernel in kernels)
        seconds = rows * (ROW_OF.get(section, ROW) + SECONDS * racing)
        found.append(Planned(section, rows, racing, count, seconds))
    return found


def seconds_to_compile() -> float:
    """Return how long the cores of a GPU's machine compile all of its kernels."""
    return result_files.kept(NAME)["work_s"] / CORES


def call_seconds(result: Result, call: str) -> float:
    """Return what a call takes at most: to start, to compile and to measure."""
    return _seconds_of(planned(result, run.CALLS[call]))


def _seconds_of(rows: Sequence[Planned]) -> float:
    return START + seconds_to_compile() + sum(row.seconds for row in rows)


def planned_table(result: Result) -> Table:
    table = plain_table("a call at most", "section", "rows", "contenders", "kernels", "seconds")
    for call, sections in run.CALLS.items():
        rows = planned(result, sections)
        for row in rows:
            table.add_row(*map(str, row[:-1]), f"{row.seconds:.0f}")
        table.add_row(
            f"{call} call", "", "", "",
            f"{_seconds_of(rows):.0f}, with {START:.0f} to start "
            f"and {seconds_to_compile():.0f} to compile",
        )  # fmt: skip
    return table


def spent_table(result: Result) -> Table:
    """Return what the rows of each section took, and what was compiled meanwhile."""
    table = plain_table("seconds of this call", "section", "rows", "seconds", "compiled", "for")
    for section in run.SECTIONS:
        if rows := result.of(section):
            numbers = [
                sum(row.get(name, 0) for row in rows)
                for name in ("seconds", "compiled", "compile_s")
            ]
            seconds, kernels, compiling = numbers
            table.add_row(
                section, str(len(rows)), f"{seconds:.0f}", str(kernels), f"{compiling:.0f}"
            )
    return table
