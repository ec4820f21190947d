"""Time sparse training beside dense training on the CPU, and keep the result.

python -m benchmarks.cpu            print the tables and keep benchmarks/results/cpu.json

Layers first (`benchmarks.cpu_layers`), then whole training steps: forward, loss, backward,
optimiser and every conversion of the layout. Dense steps are the better of the contiguous and the
channels-last layout. Contenders take turns in one process; rows hold medians and quartiles.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from benchmarks.cpu_layers import Row, keep_freed_memory, rows, spread, summary
from gemkern.files import write_atomically
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.report.environment import devices, versions

RESULTS = Path(__file__).resolve().parent / "results"
DENSITY, BATCH = 0.0144, 128
NETWORKS = ("resnet20", "vgg16", "wide_resnet28_2")
DENSITIES = (0.005, 0.0144, 0.05, 0.1, 0.2)
BATCHES = (32, 64, 128, 256, 512)
# Of ResNet-20, whose step is bound by memory, and of VGG-16, whose step is bound by its sums.
GROWING = ("resnet20", "vgg16")
CLASSES = 10


@dataclass(frozen=True)
class Step:
    """A training step; milliseconds, with the first and third quartile of the rounds."""

    network: str
    density: float
    batch: int
    threads: int
    sparse: float
    sparse_spread: tuple[float, float]
    dense: float
    dense_spread: tuple[float, float]
    dense_layout: str
    ratio: float


def steps(rounds: int = 7) -> Iterator[Step]:
    """Measure the networks at the density of the paper, then density by density and batch."""
    cases = [(network, DENSITY, BATCH) for network in NETWORKS]
    cases += [(network, density, BATCH) for network in GROWING for density in DENSITIES]
    cases += [("resnet20", DENSITY, batch) for batch in BATCHES]
    for case in dict.fromkeys(cases):
        yield measure(*case, rounds)
        gc.collect()


def measure(network: str, density: float, batch: int, rounds: int) -> Step:
    """Measure one step; the masks are random, of one density in every layer.

    Raises:
        AssertionError: the sparse network computes another loss than the dense one under its mask.
    """
    contenders = _contenders(network, density, batch)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        step()
    for _ in range(rounds):
        for name, step in contenders.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in times.items()}
    layout = min(("contiguous", "channels-last"), key=medians.__getitem__)
    return Step(
        network, density, batch, torch.get_num_threads(), medians["sparse"],
        spread(times["sparse"]), medians[layout], spread(times[layout]), layout,
        medians[layout] / medians["sparse"],
    )  # fmt: skip


def _contenders(network: str, density: float, batch: int) -> dict[str, Callable[[], float]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    model = build(network, classes=CLASSES, affine=True, init="kaiming_normal", seed=0)
    gk.convert(model)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=generator) < density)
        layer.weight.data.masked_fill_(~layer.active, 0)
    expected = F.cross_entropy(model(x), labels).item()
    gk.accelerate(model)
    found = F.cross_entropy(model(x), labels).item()
    assert abs(found - expected) < 1e-3 * abs(expected), (found, expected)
    dense = {
        name: build(network, classes=CLASSES, affine=True, init="kaiming_normal", seed=0).to(
            memory_format=layout
        )
        for name, layout in (
            ("contiguous", torch.contiguous_format),
            ("channels-last", torch.channels_last),
        )
    }
    made = {"sparse": _step(model, gk.MaskedSGD(model, lr=0.01, momentum=0.9), x, labels)}
    for name, network_of in dense.items():
        images = x.to(memory_format=torch.channels_last) if name == "channels-last" else x
        optimizer = torch.optim.SGD(network_of.parameters(), lr=0.01, momentum=0.9)
        made[name] = _step(network_of, optimizer, images, labels)
    return made


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor
) -> Callable[[], float]:
    def step() -> float:
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def layer_table(means: list[dict[str, Any]]) -> Table:
    """Return the geometric means over layers, by density and pass."""
    table = Table(title="Sparse over dense convolutions, geometric mean of the layers' ratios")
    for column in ("density", "pass", "faster by"):
        table.add_column(column)
    for row in means:
        table.add_row(f"{row['density']:g}", row["which"], f"{row['geometric_mean']:.1f}x")
    return table


def step_table(measured: list[Step]) -> Table:
    """Return the whole training steps."""
    table = Table(title="A training step, float32")
    for column in ("network", "density", "batch", "sparse ms", "dense ms", "faster by"):
        table.add_column(column)
    for row in measured:
        numbers = f"{row.sparse:.0f}", f"{row.dense:.0f}", f"{row.ratio:.1f}x"
        table.add_row(row.network, f"{row.density:g}", str(row.batch), *numbers)
    return table


def keep(layers: list[Row], measured: list[Step], out: Path) -> Path:
    """Write the result file and return its path."""
    content = {
        "command": "python -m benchmarks.cpu",
        "versions": versions(),
        "devices": devices(),
        "dtype": "float32",
        "layers": [asdict(row) for row in layers],
        "geometric_means": summary(layers) if layers else [],
        "steps": [asdict(row) for row in measured],
    }
    path = out / "cpu.json"
    write_atomically(path, lambda place: place.write_text(json.dumps(content, indent=1) + "\n"))
    return path


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = RESULTS,
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement.")] = 7,
) -> None:
    """Measure, print and keep."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    console = Console()
    measured = list(steps(rounds))
    console.print(step_table(measured))
    layers = list(rows(rounds=rounds))
    console.print(layer_table(summary(layers)))
    console.print(f"kept in {keep(layers, measured, out)}")


if __name__ == "__main__":
    typer.run(main)
