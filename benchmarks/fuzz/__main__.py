"""Feed readers and operators with inputs that nobody would write, and count what comes of them.

python -m benchmarks.fuzz                      2,000 inputs of each fuzzer
python -m benchmarks.fuzz --inputs 100000      a long one
python -m benchmarks.fuzz --only ticket,idx    some of the fuzzers
python -m benchmarks.fuzz --seed 7             other inputs; the seed is printed

An input is accepted, or refused by one `GemkernError` of one sentence that can be printed. Whatever
else comes of it is a failure (`benchmarks.fuzz.child`): it is made as small as hypothesis can, and
printed. Exit code 1 says that something failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.child import Child
from benchmarks.fuzz.fuzzers import FUZZERS
from benchmarks.fuzz.hunt import Fuzzer, Tally, fuzz

# Characters of an input that are printed.
SHOWN = 400


def table(tallies: Sequence[Tally], seconds: Sequence[float], seed: int) -> Table:
    """One row a fuzzer: what came of its inputs."""
    found = Table(box=box.SIMPLE_HEAD, title=f"seed {seed}", title_justify="left")
    found.add_column("fuzzer")
    for header in ("tried", "accepted", "refused", "failed", "s"):
        found.add_column(header, justify="right")
    for tally, took in zip(tallies, seconds, strict=True):
        counts = (tally.tried, tally.accepted, tally.refused, tally.failed)
        found.add_row(tally.name, *(f"{count:,}" for count in counts), f"{took:.1f}")
    return found


def failures(tally: Tally) -> list[str]:
    """Return what failed, with the smallest input of each."""
    lines = []
    for failure in tally.failures.values():
        _, what, where = failure.outcome
        lines.append(f"{tally.name}: {failure.count} times at {where}: {what}")
        lines.append(f"    smallest: {failure.smallest[:SHOWN]}")
    return lines


def last_line(tallies: Sequence[Tally]) -> str:
    """Return what all fuzzers come to."""
    sums = [
        sum(getattr(tally, name) for tally in tallies)
        for name in ("tried", "accepted", "refused", "failed")
    ]
    tried, accepted, refused, failed = sums
    return (
        f"{len(tallies)} fuzzers, {tried:,} inputs, {accepted:,} accepted, {refused:,} refused, "
        f"{failed:,} failed"
    )


def chosen(only: str) -> list[Fuzzer]:
    """Return the fuzzers of a list of names, all for an empty one."""
    names = [name for name in only.split(",") if name]
    known = {fuzzer.name: fuzzer for fuzzer in FUZZERS}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}")
    return [known[name] for name in names] or list(FUZZERS)


def main(
    inputs: Annotated[int, typer.Option(min=1, help="Of each fuzzer.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    only: Annotated[str, typer.Option(help="Names of fuzzers, commas between.")] = "",
) -> None:
    """Try inputs; exit code 1 where something failed."""
    console = Console(width=120)
    tallies, seconds = [], []
    with Child() as child:
        for fuzzer in chosen(only):
            started = time.monotonic()
            tallies.append(fuzz(fuzzer, child, inputs, seed))
            seconds.append(time.monotonic() - started)
            for line in failures(tallies[-1]) or [f"{fuzzer.name}: nothing failed"]:
                console.print(line, markup=False, highlight=False)
    console.print(table(tallies, seconds, seed))
    console.print(last_line(tallies), markup=False, highlight=False)
    raise typer.Exit(1 if any(tally.failed for tally in tallies) else 0)


if __name__ == "__main__":
    typer.run(main)
