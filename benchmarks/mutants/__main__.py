"""Put faults into the code, and see that the tests notice them.

python -m benchmarks.mutants                  all faults, half an hour on two cores
python -m benchmarks.mutants --only popup     those whose file or test has that in its name
python -m benchmarks.mutants --sample 10      a few, drawn by --seed

Each fault is a mistake of one line in a kernel, a gradient, a schedule, a method or a reader, and
names the test that has to fail for it (`benchmarks/mutants/faults/`). It is put into a copy of the
repository, where its test runs. First of all every test has to pass where there is no fault.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tqdm import tqdm

from benchmarks.mutants.fault import Fault
from benchmarks.mutants.faults import ROOMS
from benchmarks.mutants.score import is_enough, report, tried, workshops_below
from gemkern.errors import GemkernError

ROOT = Path(__file__).resolve().parents[2]


def chosen(only: str, sample: int | None, seed: int) -> dict[str, list[Fault]]:
    """Return the faults that are to be tried, by room.

    Raises:
        GemkernError: there are none.
    """
    named = [
        (room, fault)
        for room, faults in ROOMS.items()
        for fault in faults
        if only in fault.path or only in fault.test
    ]
    if not named:
        raise GemkernError(f"no fault has {only!r} in the name of its file or its test")
    if sample is not None and sample < len(named):
        named = random.Random(seed).sample(named, sample)
    return {room: [fault for other, fault in named if other == room] for room in ROOMS}


def main(
    sample: Annotated[int | None, typer.Option(min=1, help="How many faults to try.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the sample.")] = 0,
    only: Annotated[str, typer.Option(help="What the file or the test has in its name.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="Faults tried at a time.")] = 2,
) -> None:
    """Try faults; exit code 1 where tests notice fewer than 95 %, 2 where none can be tried."""
    console = Console(width=120, highlight=False)
    try:
        rooms = chosen(only, sample, seed)
        total = sum(map(len, rooms.values()))
        with (
            tempfile.TemporaryDirectory() as folder,
            tqdm(total=total, unit="fault", disable=None, leave=False) as bar,
        ):
            workshops = workshops_below(Path(folder), ROOT, processes)
            tallies = tried(rooms, workshops, lambda _: bar.update())
    except GemkernError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(2) from None
    for line in report(tallies):
        console.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(0 if is_enough(tallies) else 1)


if __name__ == "__main__":
    typer.run(main)
