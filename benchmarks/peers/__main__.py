"""Time sparse layers beside their peers on the CPU, and keep the result.

python -m benchmarks.peers      four to eight minutes; keeps benchmarks/results/peers-MACHINE.json

Three uses: convolutions on images that lie as each contender wants them, a layer in the place of
`nn.Conv2d`, and linear layers. Contenders take turns in one process on the same threads, after
their results were compared with float64. SparseProp (ICML 2023) takes part where it is installed:
else its columns are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.cpu_layers import LAYERS, Layer
from benchmarks.cpu_rows import Row, measure_and_keep
from benchmarks.cpu_timing import interleaved, summed_up
from benchmarks.peers.contenders import (
    HOW_TO_INSTALL,
    Calls,
    convolution,
    drop_in,
    linear,
    sparseprop,
)
from benchmarks.peers.report import USES, markdown

DENSITIES = (0.0144, 0.05, 0.2)
BATCH = 128
# Inputs and outputs of linear layers, and their batches.
LINEAR = ((512, 512), (784, 300), (1024, 1024), (4096, 1024))
BATCHES = (1, 16, 128)
CALLS_IN_A_ROW = 4


def rows(densities: tuple[float, ...], seconds: float) -> Iterator[Row]:
    """Measure each use, layer, density and pass, `seconds` for each contender."""
    for density in densities:
        for layer in LAYERS:
            for use, calls in zip(USES, (convolution, drop_in), strict=False):
                make = partial(calls, layer, BATCH, density)
                yield from _rows(use, words(layer), BATCH, density, make, seconds)
        for inputs, outputs in LINEAR:
            for batch in BATCHES:
                make = partial(linear, inputs, outputs, batch, density)
                yield from _rows(USES[2], f"{inputs} to {outputs}", batch, density, make, seconds)


def words(layer: Layer) -> str:
    """Return a layer in words."""
    stride = "" if layer.stride == 1 else f", stride {layer.stride}"
    return (
        f"{layer.network}: {layer.inputs} to {layer.outputs} at {layer.size}x{layer.size}{stride}"
    )


def _rows(
    use: str, of: str, batch: int, density: float, make: Callable[[], Calls], seconds: float
) -> Iterator[Row]:
    for which, contenders in make().items():
        times = interleaved(contenders, seconds * len(contenders), CALLS_IN_A_ROW)
        yield {
            "use": use,
            "of": of,
            "batch": batch,
            "density": density,
            "which": which,
            **summed_up(times),
        }


def in_words(row: Row) -> str:
    """Return a row in words."""
    us = ", ".join(f"{name} {1e3 * one:.0f}" for name, one in row["ms"].items())
    of = f"{row['use']}, {row['of']}, batch {row['batch']}, {100 * row['density']:g} %"
    return f"{of}, {row['which']}: {us} us"


def main(
    seconds: Annotated[float, typer.Option(min=0.0, help="Of a contender in a row.")] = 0.25,
    density: Annotated[list[float] | None, typer.Option(help="One or more.")] = None,
) -> None:
    """Measure, print and keep."""
    if sparseprop() is None:
        Console(width=120).print(f"SparseProp is not installed: {HOW_TO_INSTALL}")
    layout = "batch-last, contiguous or the better of two dense ones"
    found = rows(tuple(density or DENSITIES), seconds)
    measure_and_keep("peers", layout, found, in_words, markdown)


if __name__ == "__main__":
    typer.run(main)
