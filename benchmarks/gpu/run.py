"""The sections in order of worth, one result file, and the tables of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import (
    ceilings,
    convolutions,
    correctness,
    elementwise,
    graphs,
    products,
    sanitize,
    selection,
    shapes,
    step,
)
from benchmarks.gpu.bars import bars, bars_table, section_table
from benchmarks.gpu.bench import Bench, Plan, run_section
from benchmarks.gpu.result import Result, about
from benchmarks.gpu.timing import DeviceClock, WallClock

SECTIONS: dict[str, Plan] = {
    ceilings.SECTION: ceilings.plan,
    correctness.SECTION: correctness.plan,
    graphs.SECTION: graphs.plan,
    elementwise.SECTION: elementwise.plan,
    selection.SECTION: selection.plan,
    step.SECTION: step.plan,
    sanitize.SECTION: sanitize.plan,
    products.SECTION: products.plan,
    convolutions.SECTION: convolutions.plan,
    "compiled steps": step.plan_compiled,
    "compiled elementwise": elementwise.plan_compiled,
}


def measure(
    path: Path,
    seconds: float,
    sections: str,
    resume: bool,
    rehearse: bool,
    commit: str | None,
    console: Console,
) -> None:
    """Run `sections` (all if empty) into the result file at `path`, and print their tables.

    Raises:
        DeviceLost: the rest needs another process.
    """
    result = Result(path, about(commit, rehearse))
    if resume:
        result.resume()
    if not rehearse:
        torch.backends.cudnn.benchmark = True
    bench = Bench(
        device="cpu" if rehearse else "cuda",
        shapes=shapes.rehearsal() if rehearse else shapes.full(),
        clock=WallClock() if rehearse else DeviceClock(),
        result=result,
        seconds=seconds,
    )
    try:
        for name in sections.split(",") if sections else SECTIONS:
            run_section(bench, name, SECTIONS[name])
            result.bars = bars(result)
            result.write()
            console.print(section_table(result, name))
    finally:
        result.bars = bars(result)
        result.write()
        console.print(bars_table(result.bars))
        console.print(f"written to {path}, {bench.left():.0f} s left")
