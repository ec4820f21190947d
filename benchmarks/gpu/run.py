"""The sections in order of worth, in two calls of ten minutes; and a run of them in one process."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import (
    ceilings,
    convolutions,
    cores,
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

COMPILED_STEP, COMPILED_ELEMENTWISE = "compiled step", "compiled elementwise"
# What a first call has to say: masks, scores and whole steps, a hundred kernels.
FIRST: dict[str, Plan] = {
    ceilings.SECTION: ceilings.plan,
    graphs.SECTION: graphs.plan,
    correctness.MASK_SECTION: correctness.plan_masks,
    elementwise.SECTION: elementwise.plan,
    selection.SECTION: selection.plan,
    traffic.SECTION: traffic.plan,
    step.SECTION: step.plan,
    trainer.SECTION: trainer.plan,
}
# Products, most of which are chosen nowhere yet, and what does not need our kernels.
SECOND: dict[str, Plan] = {
    correctness.PRODUCT_SECTION: correctness.plan_products,
    products.SECTION: products.plan,
    sanitize.SECTION: sanitize.plan,
    convolutions.SECTION: convolutions.plan,
    cores.SECTION: cores.plan,
    products.FLOAT32: products.plan_float32,
    COMPILED_STEP: step.plan_compiled,
    COMPILED_ELEMENTWISE: elementwise.plan_compiled,
}
SECTIONS = {**FIRST, **SECOND}
CALLS = {"first": tuple(FIRST), "second": tuple(SECOND)}


def chosen(names: str) -> list[str]:
    """Return the sections that `names`, joined by commas, stand for: "first", "second", or all.

    Raises:
        LookupError: there is no such section.
    """
    sections: list[str] = []
    for name in names.split(",") if names else CALLS:
        sections += CALLS.get(name, (name,))
    if unknown := set(sections) - set(SECTIONS):
        raise LookupError(
            f"no section is called {', '.join(sorted(unknown))}: choose of "
            f"{', '.join((*CALLS, *SECTIONS))}"
        )
    return sections


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
