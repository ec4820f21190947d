"""Compile every Triton kernel for every chip, with none there, and keep what the assemblers say.

python -m benchmarks.compiled       print the table and keep it as benchmarks/results/compiled.json
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from gemkern.kernels.gpu.compiled import TARGETS, Compiled, Target, compile_variant, variants_on
from gemkern.kernels.gpu.variants import Variant
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gemkern.files import write_atomically
from gemkern.report.environment import versions

RESULTS = Path(__file__).resolve().parent / "results"
NAME = "compiled.json"
# The versions that a result depends on, or that are wanted beside it.
VERSIONS = ("python", "torch", "triton")


class Place(NamedTuple):
    """A variant, by its name, on a target, by its own."""

    variant: str
    target: str


class Job(NamedTuple):
    """A variant to compile for a target."""

    variant: Variant
    target: Target

    @property
    def place(self) -> Place:
        return Place(self.variant.name, self.target.name)


JOBS = tuple(Job(variant, target) for target in TARGETS for variant in variants_on(target))


def kept(folder: Path = RESULTS) -> dict[Place, Compiled]:
    """Return what a result file says of each variant on each target."""
    rows = read(folder)["variants"]
    return {
        Place(variant, target): Compiled(*numbers, matrix=tuple(matrix))
        for variant, row in rows.items()
        for target, (*numbers, matrix) in row.items()
    }


def read(folder: Path = RESULTS) -> dict:
    """Return a result file as it stands."""
    return json.loads((folder / NAME).read_text(encoding="utf-8"))


def keep(results: Mapping[Place, Compiled], folder: Path = RESULTS) -> None:
    """Write `results` to a result file, a variant a line."""
    write_atomically(folder / NAME, lambda path: path.write_text(_text(results), "utf-8"))


def table(results: Mapping[Place, Compiled]) -> Table:
    """Return the most that any variant of a kernel takes, a row for each tile and target."""
    groups: dict[tuple[str, str, str], list[Compiled]] = defaultdict(list)
    for job in JOBS:
        kernel = job.variant.kernel.fn.__name__.removesuffix("_kernel")
        groups[kernel, job.variant.config, job.target.name].append(results[job.place])
    shown = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        caption="The most of so many variants; bytes a program shares and a thread spills.\n"
        "After the tile: warps or threads, stages.",
        caption_justify="left",
    )
    for header in ("kernel", "tile", "target"):
        shown.add_column(header, no_wrap=True)
    for header in ("count", "regs", "shared", "spilled"):
        shown.add_column(header, justify="right", no_wrap=True)
    for key, group in sorted(groups.items()):
        most = [max(numbers) for numbers in zip(*(one[:3] for one in group), strict=True)]
        shown.add_row(*key, str(len(group)), *map(str, most))
    return shown


def _text(results: Mapping[Place, Compiled]) -> str:
    rows: dict[str, dict[str, Compiled]] = defaultdict(dict)
    for (variant, target), compiled in results.items():
        rows[variant][target] = compiled
    head = {
        "command": "python -m benchmarks.compiled",
        "versions": {name: versions()[name] for name in VERSIONS},
        "columns": Compiled._fields,
    }
    lines = [f' "{name}": {json.dumps(value)},' for name, value in head.items()]
    variants = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items())]
    return "\n".join(["{", *lines, ' "variants": {', ",\n".join(variants), " }", "}\n"])


def _compile(number: int) -> Compiled:
    # By number, because Triton's functions do not travel between processes.
    return compile_variant(*JOBS[number])


def _compile_all(processes: int) -> Iterator[tuple[Place, Compiled]]:
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(_compile, range(len(JOBS)), chunksize=8)
        jobs = track(JOBS, "compiling", console=Console(stderr=True))
        for job, compiled in zip(jobs, results, strict=True):
            yield job.place, compiled


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = RESULTS,
    processes: Annotated[int, typer.Option(help="How many compile at once.")] = os.cpu_count() or 1,
) -> None:
    """Compile every variant for every target, print the table and keep it."""
    start = time.perf_counter()
    results = dict(_compile_all(processes))
    keep(results, out)
    console = Console()
    console.print(table(results))
    seconds = time.perf_counter() - start
    console.print(
        f"{len(results)} compiled, or found in Triton's cache, in {seconds:.0f} s "
        f"by {processes} processes"
    )


if __name__ == "__main__":
    typer.run(main)
