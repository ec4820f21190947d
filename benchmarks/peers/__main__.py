"""Time sparse layers beside their peers on the CPU, and keep the result.

python -m benchmarks.peers      four to eight minutes; keeps benchmarks/results/peers-MACHINE.json

Three uses: convolutions on images that lie as each contender wants them, a layer in the place of
`nn.Conv2d`, and linear layers. Contenders take turns in one process on the same threads, after
their results were compared with float64. SparseProp (ICML 2023) takes part where it is installed:
else its columns are empty.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import result_files
from benchmarks.cpu_layers import LAYERS, Layer
from benchmarks.cpu_timing import interleaved, spread
from benchmarks.peers.contenders import (
    HOW_TO_INSTALL,
    Calls,
    convolution,
    drop_in,
    linear,
    sparseprop,
)
from benchmarks.peers.report import USES, markdown
from gemkern.nn import keep_freed_memory

DENSITIES = (0.0144, 0.05, 0.2)
BATCH = 128
# Inputs and outputs of linear layers, and their batches.
LINEAR = ((512, 512), (784, 300), (1024, 1024), (4096, 1024))
BATCHES = (1, 16, 128)
CALLS_IN_A_ROW = 4
Row = dict[str, Any]


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
            "ms": {name: statistics.median(found) for name, found in times.items()},
            "quartiles": {name: spread(found) for name, found in times.items()},
        }


def main(
    seconds: Annotated[float, typer.Option(min=0.0, help="Of a contender in a row.")] = 0.25,
    density: Annotated[list[float] | None, typer.Option(help="One or more.")] = None,
) -> None:
    """Measure, print and keep."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    console = Console(width=120)
    if sparseprop() is None:
        console.print(f"SparseProp is not installed: {HOW_TO_INSTALL}")
    found = []
    for row in rows(tuple(density or DENSITIES), seconds):
        found.append(row)
        ms = ", ".join(f"{name} {1e3 * one:.0f}" for name, one in row["ms"].items())
        console.print(
            f"{row['use']}, {row['of']}, batch {row['batch']}, {100 * row['density']:g} %, "
            f"{row['which']}: {ms} us", highlight=False,
        )  # fmt: skip
    content = {
        **result_files.about(result_files.command("benchmarks.peers")),
        "dtype": "float32",
        "layout": "batch-last, contiguous or the better of two dense ones",
        "rows": found,
    }
    name = result_files.named("peers", result_files.used("cpu"))
    console.print(markdown(content), markup=False, highlight=False)
    console.print(f"kept in {result_files.keep(result_files.RESULTS, name, content)}")


if __name__ == "__main__":
    typer.run(main)
