"""Find where acceleration begins to pay: the steps of `gemkern race`, dense and accelerated.

python -m benchmarks.break_even     print the table; keep benchmarks/results/break-even-MACHINE.json

Two committed numbers follow from it, `SURE_TO_PAY` and `FEWEST_PIXELS` of `gemkern.nn.accelerate`:
a step within both should not be slower accelerated, whatever the network, beyond the noise.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from benchmarks import result_files
from benchmarks.cpu_timing import Call, interleaved, spread
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
DENSE, ACCELERATED = "dense", "accelerated"
# Of a row, for both.
SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """A training step in milliseconds, and whether "auto" would accelerate it.

    Medians of steps in turn, with the first and third quartile of them.
    """

    network: str
    side: int
    batch: int
    density: float
    dense: float
    dense_spread: tuple[float, float]
    accelerated: float
    accelerated_spread: tuple[float, float]
    chosen: bool


def rows() -> Iterator[Row]:
    """Measure every network, batch and density; masks are random, of one density in each layer."""
    for (network, channels, side), batch, density in itertools.product(
        NETWORKS, BATCHES, DENSITIES
    ):
        yield measure(network, channels, side, batch, density)


def measure(
    network: str, channels: int, side: int, batch: int, density: float, seconds: float = SECONDS
) -> Row:
    """Measure one network, batch and density, in `seconds`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, side, side, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    model = build(network, classes=10, channels=channels, image_size=side, affine=False, seed=0)
    gk.convert(model)
    for layer in masked_layers(model).values():
        # A count, not a draw: a layer of few weights would miss its density.
        places = torch.randperm(layer.active.numel(), generator=generator)
        layer.active.copy_((places < density * len(places)).view_as(layer.active))
    models = {DENSE: model, ACCELERATED: gk.accelerate(copy.deepcopy(model))}
    times = interleaved({name: _step(one, images, labels) for name, one in models.items()}, seconds)
    return Row(
        network=network,
        side=side,
        batch=batch,
        density=density,
        dense=median(times[DENSE]),
        dense_spread=spread(times[DENSE]),
        accelerated=median(times[ACCELERATED]),
        accelerated_spread=spread(times[ACCELERATED]),
        chosen=large_enough(batch, side, side) and density <= SURE_TO_PAY,
    )


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> Call:
    training = WeightTraining(model, 1, lr=1e-3)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        training.step()

    return step


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
