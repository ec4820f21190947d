"""How near the CPU kernels are to what bounds them: a copy's bytes, a dense product's sums.

python -m benchmarks.cpu_roofline       print, and keep benchmarks/results/roofline-MACHINE.json

A kernel that works element by element takes turns with a copy that moves as many bytes as it has to
move, so the caches help both alike; one that multiplies takes turns with a dense product and with
PyTorch's dense operator, in the faster of two layouts. A wrong result is not timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from gemkern.kernels.table import OPERATORS
from rich.console import Console
from rich.table import Table

from benchmarks import cpu_products, result_files
from benchmarks.cpu_floor import READ_AND_WRITTEN
from benchmarks.cpu_products import Multiplying
from benchmarks.cpu_timing import Call, interleaved, spread
from benchmarks.gpu.shapes import weights_of
from benchmarks.traffic import WEIGHT_OPERATORS, Moving, over_activations, over_weights
from gemkern.nn import keep_freed_memory

KERNEL, COPY, PRODUCT = "kernel", "copy", "product"
NETWORKS = ("resnet20", "vgg16")
# Channels and side of the first activations of ResNet-20 and of VGG-16.
BATCH, ACTIVATIONS = 128, ((16, 32), (64, 32))
# Rows, columns and depth of the dense product.
SIDE = 1024
FLOAT = 4
# Of a row, for all its contenders.
SECONDS = 0.6


@dataclass(frozen=True)
class Traffic:
    """A kernel beside a copy. Times are milliseconds, spreads first and third quartiles of them."""

    operator: str
    of: str
    threads: int
    bytes: int
    time: float
    time_spread: tuple[float, float]
    copy: float
    copy_spread: tuple[float, float]
    bytes_per_s: float
    share: float


@dataclass(frozen=True)
class Product:
    """A kernel beside dense ones; times as in `Traffic`, rates in operations a second.

    `flop` are the additions and multiplications of the dense operator, `useful_flop` those with
    weights that remain. Shares are of the rate of the dense product, `peak`.
    """

    operator: str
    of: str
    density: float
    threads: int
    flop: int
    useful_flop: int
    time: float
    time_spread: tuple[float, float]
    dense: float
    dense_spread: tuple[float, float]
    peak: float
    useful_flop_per_s: float
    dense_equivalent_flop_per_s: float
    useful_share: float
    dense_equivalent_share: float


def traffic_rows(
    networks: Sequence[str] = NETWORKS,
    activations: Sequence[tuple[int, int]] = ACTIVATIONS,
    seconds: float = SECONDS,
) -> Iterator[Traffic]:
    """Measure all kernels that work element by element, on torch's number of threads."""
    for name, operator in product(networks, WEIGHT_OPERATORS):
        if OPERATORS[operator]["cpu"].module:
            yield measure_traffic(over_weights(operator, name, weights_of(name), "cpu"), seconds)
    for channels, size in activations:
        for moving in over_activations(BATCH, channels, size):
            yield measure_traffic(moving, seconds)


def measure_traffic(moving: Moving, seconds: float) -> Traffic:
    """Measure one.

    Raises:
        AssertionError, WrongResult: the kernel's result is wrong.
    """
    source = torch.ones(moving.bytes // READ_AND_WRITTEN // FLOAT)
    target = torch.zeros_like(source)
    contenders = {KERNEL: moving.call("cpu"), COPY: lambda: target.copy_(source)}
    times = interleaved(contenders, seconds)
    medians = _medians(times)
    return Traffic(
        operator=moving.operator,
        of=moving.of,
        threads=torch.get_num_threads(),
        bytes=moving.bytes,
        time=medians[KERNEL],
        time_spread=spread(times[KERNEL]),
        copy=medians[COPY],
        copy_spread=spread(times[COPY]),
        bytes_per_s=moving.bytes / (1e-3 * medians[KERNEL]),
        share=medians[COPY] / medians[KERNEL],
    )


def product_rows(
    products: Iterator[Multiplying] | None = None, seconds: float = SECONDS
) -> Iterator[Product]:
    """Measure all kernels that multiply, on torch's number of threads."""
    for multiplying in cpu_products.products() if products is None else products:
        yield measure_product(multiplying, seconds)


def measure_product(multiplying: Multiplying, seconds: float) -> Product:
    """Measure one."""
    dense: dict[str, Call] = {**multiplying.dense}
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    contenders = {KERNEL: multiplying.kernel, **dense, PRODUCT: lambda: a @ b}
    times = interleaved(contenders, seconds)
    medians = _medians(times)
    fastest = min(dense, key=medians.__getitem__)
    peak = 2 * SIDE**3 / (1e-3 * medians[PRODUCT])
    useful, whole = (
        flop / (1e-3 * medians[KERNEL]) for flop in (multiplying.useful_flop, multiplying.flop)
    )
    return Product(
        operator=multiplying.operator,
        of=multiplying.of,
        density=multiplying.density,
        threads=torch.get_num_threads(),
        flop=multiplying.flop,
        useful_flop=multiplying.useful_flop,
        time=medians[KERNEL],
        time_spread=spread(times[KERNEL]),
        dense=medians[fastest],
        dense_spread=spread(times[fastest]),
        peak=peak,
        useful_flop_per_s=useful,
        dense_equivalent_flop_per_s=whole,
        useful_share=useful / peak,
        dense_equivalent_share=whole / peak,
    )


def traffic_table(rows: Sequence[Traffic]) -> Table:
    """Return the kernels that work element by element."""
    table = Table(title="Element by element: bytes that have to move, and a copy of as many")
    for column in ("kernel", "of", "ms", "GB/s", "of a copy"):
        table.add_column(column)
    for row in rows:
        numbers = f"{row.time:.3g}", f"{row.bytes_per_s / 1e9:.1f}", f"{row.share:.0%}"
        table.add_row(row.operator, row.of, *numbers)
    return table


def product_table(rows: Sequence[Product]) -> Table:
    """Return the kernels that multiply."""
    table = Table(title="Products: operations with what remains, and with all that dense ones take")
    for column in ("kernel", "of", "density", "ms", "GFLOP/s useful", "dense-equivalent", "peak"):
        table.add_column(column)
    for row in rows:
        rates = (row.useful_flop_per_s, row.dense_equivalent_flop_per_s, row.peak)
        numbers = (f"{rate / 1e9:.0f}" for rate in rates)
        table.add_row(row.operator, row.of, f"{row.density:g}", f"{row.time:.3g}", *numbers)
    return table


def keep(traffic: Sequence[Traffic], products: Sequence[Product], out: Path) -> Path:
    """Write the result file and return its path."""
    content: dict[str, Any] = {
        **result_files.about("python -m benchmarks.cpu_roofline"),
        "dtype": "float32",
        "layout": "kernels: batch-last; dense: the faster of contiguous and channels-last",
        "traffic": [asdict(row) for row in traffic],
        "products": [asdict(row) for row in products],
    }
    return result_files.keep(out, result_files.named("roofline", result_files.used("cpu")), content)


def _medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in times.items()}


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
    seconds: Annotated[float, typer.Option(help="Seconds for a row's contenders.")] = SECONDS,
) -> None:
    """Measure, print and keep."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    console = Console()
    traffic = list(traffic_rows(seconds=seconds))
    console.print(traffic_table(traffic))
    products = list(product_rows(seconds=seconds))
    console.print(product_table(products))
    console.print(f"kept in {keep(traffic, products, out)}")


if __name__ == "__main__":
    typer.run(main)
