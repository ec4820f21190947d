"""Time sparse training beside dense training on the CPU, and keep the result.

python -m benchmarks.cpu                print the tables; keep benchmarks/results/cpu-MACHINE.json
python -m benchmarks.cpu --minutes 5    what can be measured in five minutes, in order of value

Whole training steps first (`benchmarks.cpu_steps`), then how near kernels are to what bounds them
(`benchmarks.cpu_roofline`, which keeps a file of its own), then layers (`benchmarks.cpu_layers`).
Contenders take turns in one process; rows hold medians and quartiles. It takes about a quarter of
an hour on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import cpu_layers, cpu_roofline, cpu_steps, result_files
from gemkern.nn import keep_freed_memory

Row = TypeVar("Row")
ROWS_OF_LAYER = len(cpu_layers.DENSITIES) * len(cpu_layers.PASSES)


def until(deadline: float, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows, which are measured as they are asked for, until the clock is past `deadline`."""
    while time.perf_counter() < deadline:
        row = next(rows, None)
        if row is None:
            return
        yield row


def layer_table(means: list[dict[str, Any]]) -> Table:
    """Return the geometric means over layers, by density and pass."""
    table = Table(title="Sparse over dense convolutions, geometric mean of the layers' ratios")
    for column in ("density", "pass", "faster by"):
        table.add_column(column)
    for row in means:
        table.add_row(f"{row['density']:g}", row["which"], f"{row['geometric_mean']:.1f}x")
    return table


def step_table(measured: list[cpu_steps.Row]) -> Table:
    """Return the whole training steps."""
    table = Table(title="A training step, float32")
    for column in ("network", "masks", "density", "batch", "sparse ms", "dense ms", "faster by"):
        table.add_column(column)
    for row in measured:
        numbers = f"{row.sparse:.0f}", f"{row.dense:.0f}", f"{row.ratio:.1f}x"
        table.add_row(row.network, row.masks, f"{row.density:g}", str(row.batch), *numbers)
    return table


def keep(layers: list[cpu_layers.Row], measured: list[cpu_steps.Row], out: Path) -> Path:
    """Write the result file and return its path."""
    content = {
        **result_files.about("python -m benchmarks.cpu"),
        "dtype": "float32",
        "layout": "sparse: batch-last; dense: the faster of contiguous and channels-last",
        "layers": [asdict(row) for row in layers],
        "geometric_means": cpu_layers.summary(layers) if layers else [],
        "steps": [asdict(row) for row in measured],
    }
    return result_files.keep(out, result_files.named("cpu", result_files.used("cpu")), content)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result files.")] = result_files.RESULTS,
    minutes: Annotated[float, typer.Option(help="Budget; its last row is finished.")] = 30.0,
    step_seconds: Annotated[
        float, typer.Option(help="Seconds for a training step's contenders.")
    ] = cpu_steps.SECONDS,
    layer_seconds: Annotated[
        float, typer.Option(help="Seconds for a layer's contenders.")
    ] = cpu_layers.SECONDS,
) -> None:
    """Measure, most important first, print and keep."""
    deadline = time.perf_counter() + 60 * minutes
    torch.set_flush_denormal(True)
    keep_freed_memory()
    console = Console()
    measured = list(until(deadline, cpu_steps.rows(seconds=step_seconds)))
    console.print(step_table(measured))
    traffic = list(until(deadline, cpu_roofline.traffic_rows()))
    products = list(until(deadline, cpu_roofline.product_rows()))
    console.print(cpu_roofline.traffic_table(traffic))
    console.print(cpu_roofline.product_table(products))
    layers = list(until(deadline, cpu_layers.rows(seconds=layer_seconds)))
    # A layer that was not finished would stand in some means and not in others.
    del layers[len(layers) - len(layers) % ROWS_OF_LAYER :]
    console.print(layer_table(cpu_layers.summary(layers)))
    console.print(f"kept in {keep(layers, measured, out)}")
    if products:
        console.print(f"and in {cpu_roofline.keep(traffic, products, out)}")
    if time.perf_counter() > deadline:
        console.print("Out of time: rows are missing.")


if __name__ == "__main__":
    typer.run(main)
