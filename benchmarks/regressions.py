"""Speeds that must not be lost: ratios of time, measured in turns on one thread.

python -m benchmarks.regressions    print each ratio beside its bound

`benchmarks/bounds.json` says how many times faster than its rivals each contender must be. Bounds
lie well below what was measured; the tests hold every machine that runs them to these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cpu_layers import PASSES, Layer, calls
from benchmarks.cpu_networks import DENSITY, SPARSE, Case, steps_of
from benchmarks.cpu_timing import Call, interleaved
from benchmarks.score_steps import FUSED, score_steps

BOUNDS: dict[str, float] = json.loads(
    (Path(__file__).resolve().parent / "bounds.json").read_text(encoding="utf-8")
)
LAYERS = (Layer("ResNet-20", 32, 32, 16), Layer("VGG-16", 256, 256, 8))
STEP_BATCH = 64
# Of a ratio, for all its contenders.
SECONDS = 1.0
# Noise that spoils one measurement spares another; what has become slow is slow in all of them.
ATTEMPTS = 3


def _layer(layer: Layer, which: str) -> dict[str, Call]:
    return {**calls(layer, DENSITY)[which]}


def _step(network: str) -> dict[str, Call]:
    return {**steps_of(Case(network, batch=STEP_BATCH))}


# By the name of the ratio, who is timed and what makes the contenders.
MAKERS: dict[str, tuple[str, Callable[[], Mapping[str, Call]]]] = {
    **{
        f"{which}, {layer.inputs} channels": (SPARSE, partial(_layer, layer, which))
        for layer in LAYERS
        for which in PASSES
    },
    **{f"step of {name}": (SPARSE, partial(_step, name)) for name in ("resnet20", "vgg16")},
    "score step": (FUSED, score_steps),
}


def measure(name: str) -> float:
    """Return how many times faster than the fastest of its rivals the contender is.

    Below the bound it is measured again, ATTEMPTS times in all; the highest ratio counts.

    Raises:
        AssertionError: the contender computes something wrong.
    """
    ours, make = MAKERS[name]
    with _one_thread():
        contenders = make()
        found = 0.0
        for _ in range(ATTEMPTS):
            found = max(found, ratio(contenders, ours))
            if found >= BOUNDS[name]:
                break
    return found


def ratio(contenders: Mapping[str, Call], ours: str, seconds: float = SECONDS) -> float:
    """Return the median time of the fastest rival over that of `ours`."""
    times = interleaved(contenders, seconds)
    medians = {name: median(found) for name, found in times.items()}
    return min(found for name, found in medians.items() if name != ours) / medians[ours]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread, whose own clock other work does not stretch; denormal numbers are zero."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def main() -> None:
    """Measure and print all ratios; exit with 1 where one is below its bound."""
    table = Table(title="Times faster, on one thread")
    for column in ("ratio", "measured", "bound"):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    found = {name: measure(name) for name in MAKERS}
    for name, value in found.items():
        table.add_row(name, f"{value:.1f}", f"{BOUNDS[name]:.1f}")
    Console().print(table)
    raise typer.Exit(any(value < BOUNDS[name] for name, value in found.items()))


if __name__ == "__main__":
    typer.run(main)
