"""Find where acceleration begins to pay: the steps of `gemkern race`, dense and accelerated.

python -m benchmarks.break_even     print the table; keep benchmarks/results/break-even-MACHINE.json

Two committed numbers follow from it, `SURE_TO_PAY` and `FEWEST_PIXELS` of `gemkern.nn.accelerate`:
a step within both should not be slower accelerated, whatever the network, beyond the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import gemkern as gk
from benchmarks import result_files
from gemkern.experiments.savings import step_times
from gemkern.models import build
from gemkern.nn import large_enough
from gemkern.nn.accelerate import SURE_TO_PAY
from gemkern.optim import masked_layers
from gemkern.training import WeightTraining

# Network, channels and side of its images: the small ones of the presets, and VGG-16, whose layers
# hold the most weights for a pixel.
NETWORKS = (("resnet8", 1, 8), ("resnet20", 1, 8), ("resnet8", 1, 28), ("vgg16", 3, 32))
BATCHES = (16, 32, 64, 128)
DENSITIES = (0.0144, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class Row:
    """A training step in milliseconds, and whether "auto" would accelerate it."""

    network: str
    side: int
    batch: int
    density: float
    dense: float
    accelerated: float
    chosen: bool


def rows() -> Iterator[Row]:
    """Measure every network, batch and density; masks are random, of one density in each layer."""
    for (network, channels, side), batch, density in itertools.product(
        NETWORKS, BATCHES, DENSITIES
    ):
        times = _times(network, channels, side, batch, density)
        chosen = large_enough(batch, side, side) and density <= SURE_TO_PAY
        yield Row(network, side, batch, density, *times, chosen)


def _times(
    network: str, channels: int, side: int, batch: int, density: float
) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, side, side, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    model = build(network, classes=10, channels=channels, image_size=side, affine=False, seed=0)
    gk.convert(model)
    for layer in masked_layers(model).values():
        # A count, not a draw: a layer of few weights would miss its density.
        places = torch.randperm(layer.active.numel(), generator=generator)
        layer.active.copy_((places < density * len(places)).view_as(layer.active))
    gk.accelerate(model)
    return step_times(model, lambda one: WeightTraining(one, 1, lr=1e-3), images, labels)


def table(measured: list[Row]) -> Table:
    """Return the rows for a terminal; a star marks what "auto" accelerates."""
    found = Table(title="A training step, float32")
    for column in ("network", "side", "batch", "density", "dense ms", "accelerated ms", "faster"):
        found.add_column(column, justify="left" if column == "network" else "right")
    for row in measured:
        faster = f"{row.dense / row.accelerated:.2f}x{'*' if row.chosen else ' '}"
        where = row.network, str(row.side), str(row.batch), f"{row.density:g}"
        found.add_row(*where, f"{row.dense:.1f}", f"{row.accelerated:.1f}", faster)
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
) -> None:
    """Measure, print and keep."""
    torch.set_flush_denormal(True)
    measured = list(rows())
    Console().print(table(measured))
    content = {
        **result_files.about("python -m benchmarks.break_even"),
        "dtype": "float32",
        "layout": "accelerated: batch-last; dense: contiguous",
        "steps": [asdict(row) for row in measured],
    }
    result_files.keep(out, result_files.named("break-even", result_files.used("cpu")), content)


if __name__ == "__main__":
    typer.run(main)
