"""Time training steps beside busy processes, by how the threads of OpenMP wait for work.

python -m benchmarks.busy       five minutes; keeps benchmarks/results/busy-MACHINE.json

How threads wait is settled when PyTorch is loaded, so each way has processes of its own. They take
turns, a second each: first alone on the machine, then beside one and beside four processes that
never rest. A row holds medians and quartiles in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import cpu_networks, result_files
from benchmarks.cpu_networks import SPARSE, Case
from benchmarks.cpu_timing import spread
from gemkern.nn import keep_freed_memory
from gemkern.waiting import SAID, SPINS

# A way to wait: what stands in the environment.
WAYS: dict[str, dict[str, str]] = {
    "OpenMP's own": {},
    "short spin": SPINS,
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
CASES = {
    "ResNet-20": Case("resnet20"),
    "ResNet-8, batch 32": Case("resnet8", density=0.02, batch=32),
}
CONTENDERS = {"accelerated": SPARSE, "dense": "contiguous"}
BUSY = (0, 1, 4)
WARM_UP = 5
# Of a process in one turn: it does one step, however long that takes.
SECONDS_A_TURN = 1.0


@dataclass(frozen=True)
class Row:
    """Milliseconds of a step beside so many busy processes: the median, and two quartiles."""

    network: str
    contender: str
    way: str
    busy: int
    ms: float
    quartiles: tuple[float, float]


class Stepper:
    """A process that makes steps when it is asked to, with an environment of its own."""

    def __init__(self, network: str, contender: str, environment: dict[str, str]) -> None:
        others = {name: value for name, value in os.environ.items() if name not in SAID}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.busy", "--step", network, "--contender", contender],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**others, **environment},
            cwd=result_files.ROOT,
            text=True,
        )

    def times(self) -> list[float]:
        """Return the milliseconds of the steps of one turn."""
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        print(file=asked, flush=True)
        return [float(ms) for ms in told.readline().split()]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes running that never rest."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def rows(turns: int) -> Iterator[Row]:
    """Measure every way beside each number of busy processes."""
    with ExitStack() as stack:
        steppers: dict[tuple[str, str, str], Stepper] = {}
        for network in CASES:
            for contender in CONTENDERS:
                for way, environment in WAYS.items():
                    stepper = Stepper(network, contender, environment)
                    stack.callback(stepper.close)
                    steppers[network, contender, way] = stepper
                    stepper.times()
        for number in BUSY:
            with busy(number):
                times: dict[tuple[str, str, str], list[float]] = {key: [] for key in steppers}
                for _ in range(turns):
                    for key, stepper in steppers.items():
                        times[key] += stepper.times()
            for key, found in times.items():
                yield Row(*key, number, statistics.median(found), spread(found))


def answer(step: Callable[[], object], asked: IO[str], told: IO[str]) -> None:
    """Make the steps of a turn for every line that is asked, and tell their milliseconds."""
    for _ in range(WARM_UP):
        step()
    for _ in asked:
        times, end = [], time.perf_counter() + SECONDS_A_TURN
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(f"{1e3 * (time.perf_counter() - start):.3f}")
        print(*times, file=told, flush=True)


def table(measured: list[Row]) -> Table:
    """Return all rows, a line for a network and its busy processes, a column for a way."""
    shown = Table(title="A training step in ms, by how threads wait")
    for column in ("network", "", "busy processes", *WAYS):
        shown.add_column(column)
    cells: dict[tuple[str, str, int], list[str]] = {}
    for row in measured:
        cells.setdefault((row.network, row.contender, row.busy), []).append(f"{row.ms:.1f}")
    for (network, contender, number), found in cells.items():
        shown.add_row(network, contender, str(number), *found)
    return shown


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
    turns: Annotated[int, typer.Option(min=2, help="Of every process, a second each.")] = 6,
    step: Annotated[str, typer.Option(hidden=True, help="The network of a process.")] = "",
    contender: Annotated[str, typer.Option(hidden=True, help="Its contender.")] = "",
) -> None:
    """Measure, print and keep."""
    if step:
        torch.set_flush_denormal(True)
        keep_freed_memory()
        case = CASES[step]
        trainer = cpu_networks.Trainer(case, CONTENDERS[contender])
        answer(trainer.on(*cpu_networks.batch_of(case)), sys.stdin, sys.stdout)
        return
    console = Console()
    measured = list(rows(turns))
    console.print(table(measured))
    content = {
        **result_files.about("python -m benchmarks.busy"),
        "dtype": "float32",
        "ways": WAYS,
        "steps": [asdict(row) for row in measured],
    }
    name = result_files.named("busy", result_files.used("cpu"))
    console.print(f"kept in {result_files.keep(out, name, content)}")


if __name__ == "__main__":
    typer.run(main)
