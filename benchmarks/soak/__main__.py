"""Kill runs at random moments, go on with them, and compare what they end with.

python -m benchmarks.soak                     50 kills, a quarter of an hour on two cores
python -m benchmarks.soak --kills 10          a short one

Each of race, mine, imp and finetune runs once, dense and accelerated, left alone. Then it runs
again and is stopped at random moments, by SIGKILL, SIGTERM or SIGINT, also between the writing of a
checkpoint and its renaming, on a full disk, in a folder that cannot be written, with the newest
checkpoint cut off, and with a second process on the same folder, which has to be refused. After
each the same command goes on with --resume. In the end tickets, epochs and results have to be those
of the run that was left alone, to the bit, apart from times.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.soak.subjects import TINY, Subject, left_alone, subjects
from benchmarks.soak.torture import Tally, Torture

# Kills of a command that is tortured.
LEAST = 3


def soak(kills: int, seed: int, folder: Path, say: Callable[[str], None]) -> Tally:
    """Torture commands in turns, all if there are kills enough; return what came of it."""
    numbers, tally = random.Random(seed), Tally()
    made = folder / "made"
    # Kernels are compiled here, so that a run which is left alone takes as long as one that is not.
    words = ("race", "--methods", "gem-miner,imp", "--seeds", "1", *TINY)
    Subject("race", (*words, "--set", "accelerate=always")).run(made).communicate()
    (ticket,) = made.glob("gem-miner*.ticket.safetensors")
    chosen = subjects(ticket)[: max(1, kills // LEAST)]
    each = [kills // len(chosen) + (i < kills % len(chosen)) for i in range(len(chosen))]
    first = 0
    for subject, count in zip(chosen, each, strict=True):
        if not count:
            continue
        alone = folder / f"alone {first}"
        torture = Torture(subject, alone, left_alone(subject, alone), numbers, tally)
        for number in range(first, first + count):
            torture.stop(number)
        torture.end()
        first += count
        say(f"{subject.name}: {count} kills")
        shutil.rmtree(alone)
    return tally


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often a run is stopped.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Stop runs, go on with them, compare; exit code 1 where one was lost or came out otherwise."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(kills, seed, Path(folder), console.print)
    for name, count in tally.kills.items():
        console.print(f"{count:4} times: {name}")
    console.print(
        f"{tally.kills.total()} kills, {tally.resumes} resumes, {tally.refusals} refusals, "
        f"{tally.compared} compared, {len(tally.lost)} lost, {len(tally.different)} different"
    )
    for what in (*tally.lost, *tally.different):
        console.print(what, markup=False)
    raise typer.Exit(1 if tally.lost or tally.different else 0)


if __name__ == "__main__":
    typer.run(main)
