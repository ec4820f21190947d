"""The sections in order of worth, one result file, and the tables of a run."""

from __future__ import annotations

import gc
from collections.abc import Iterable
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
    traffic,
    trainer,
)
from benchmarks.gpu.bars import bars, bars_table, section_table
from benchmarks.gpu.bench import Bench, Plan, run_section
from benchmarks.gpu.result import Result
from benchmarks.gpu.timing import DeviceClock, WallClock

SECTIONS: dict[str, Plan] = {
    ceilings.SECTION: ceilings.plan,
    correctness.SECTION: correctness.plan,
    graphs.SECTION: graphs.plan,
    convolutions.SECTION: convolutions.plan,
    elementwise.SECTION: elementwise.plan,
    selection.SECTION: selection.plan,
    traffic.SECTION: traffic.plan,
    step.SECTION: step.plan,
    trainer.SECTION: trainer.plan,
    sanitize.SECTION: sanitize.plan,
    products.SECTION: products.plan,
    products.FLOAT32: products.plan_float32,
    "compiled step": step.plan_compiled,
    "compiled elementwise": elementwise.plan_compiled,
}


def on_gpu(result: Result, seconds: float) -> Bench:
    torch.backends.cudnn.benchmark = True
    # A capture collects garbage: let it not look through all that was imported.
    gc.freeze()
    return Bench("cuda", shapes.full(), DeviceClock(), result, seconds)


def rehearsed(result: Result, seconds: float) -> Bench:
    return Bench("cpu", shapes.rehearsal(), WallClock(), result, seconds)


def measure(bench: Bench, sections: Iterable[str], console: Console, path: Path) -> None:
    """Run `sections` and print their tables; what is measured is on disk whatever happens.

    Raises:
        DeviceLost: the rest needs another process.
    """
    result = bench.result
    try:
        for section in sections:
            run_section(bench, section, SECTIONS[section])
            console.print(section_table(result, section))
    finally:
        # A rehearsal decides nothing.
        result.bars = [] if bench.rehearsal else bars(result)
        result.write()
        console.print(bars_table(result.bars))
        console.print(f"written to {path}; {bench.left():.0f} s left")
