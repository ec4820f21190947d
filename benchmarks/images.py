"""Time networks on large images, and networks that only answer, on the CPU, and keep the result.

python -m benchmarks.images     four minutes; keeps benchmarks/results/images-MACHINE.json

Training steps of the ResNets of ImageNet on images of 224x224, and inference of few images, sparse
beside dense. The dense network of an inference has its norms folded into its convolutions. The
better of two layouts counts. A wrong sparse result is not timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.fx.experimental.optimization import fuse

import gemkern as gk
from benchmarks import result_files
from benchmarks.cpu_networks import (
    DENSITY,
    LAYOUTS,
    SPARSE,
    Case,
    batch_of,
    masked_network,
    network,
    steps_of,
)
from benchmarks.cpu_rows import Row, measure_and_keep
from benchmarks.cpu_timing import interleaved, summed_up
from gemkern.report.console import short

LARGE = 224
# With the stem that ResNets have for ImageNet.
TRAINED = ("tiny_resnet18", "resnet50")
BATCHES, DENSITIES = (16, 32), (0.0144, 0.05)
ANSWERING = (("resnet20", 32), ("resnet50", LARGE))
FEW = (1, 4, 16)
TRAINING, INFERENCE = "a training step", "inference"
# Of a row, for all its contenders.
SECONDS = 6.0
# Relative, of the norm of the logits.
TOLERANCE = 1e-4


def cases() -> Iterator[tuple[str, Case]]:
    """Yield what is measured: a use, and a network with its images."""
    for name in TRAINED:
        for batch in BATCHES:
            for density in DENSITIES:
                yield TRAINING, Case(name, density, batch, image_size=LARGE)
    for name, size in ANSWERING:
        for batch in FEW:
            yield INFERENCE, Case(name, DENSITY, batch, image_size=size)


def answers_of(case: Case) -> dict[str, Callable[[], Tensor]]:
    """Return the inference of every contender, by name, after a check of the sparse one.

    Raises:
        AssertionError: the sparse logits are wrong.
    """
    x, _ = batch_of(case)
    model = masked_network(case).eval()
    with torch.inference_mode():
        expected = model(x)
        sparse = gk.accelerate(model)
        error = (sparse(x) - expected).norm().item()
        assert error <= TOLERANCE * expected.norm().item(), f"wrong logits: off by {error}"

    def answer(model: torch.nn.Module, x: Tensor) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.inference_mode():
                return model(x)

        return call

    found = {SPARSE: answer(sparse, x)}
    for name, layout in LAYOUTS.items():
        dense = fuse(network(case).eval()).to(memory_format=layout)
        found[name] = answer(dense, x.contiguous(memory_format=layout))
    return found


def rows(seconds: float) -> Iterator[Row]:
    """Measure every case in `seconds`; times are milliseconds."""
    for use, case in cases():
        contenders = steps_of(case) if use == TRAINING else answers_of(case)
        times = interleaved(contenders, seconds)
        yield {"use": use, **asdict(case), **summed_up(times)}
        del contenders
        gc.collect()


def markdown(kept: Mapping[str, Any]) -> str:
    """Return the table: a line for each row."""
    lines = [
        "| use | network | image | batch | density<br>% | dense<br>ms | sparse<br>ms | faster by |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in kept["rows"]:
        dense, sparse = min(row["ms"][name] for name in LAYOUTS), row["ms"][SPARSE]
        lines.append(
            f"| {row['use']} | {row['network']} | {row['image_size']} | {row['batch']} | "
            f"{100 * row['density']:g} | {short(dense)} | {short(sparse)} | {dense / sparse:.2f}x |"
        )
    return "\n".join(lines) + "\n"


def block(name: str, kept: Mapping[str, Any]) -> str:
    """Return the table for a page, with what it was measured by and on."""
    origin = result_files.source(name, kept, kept["devices"][0])
    return f"{markdown(kept)}\n`{kept['command']}`: medians; {origin}\n"


def words(row: Row) -> str:
    """Return a row in words."""
    ms = ", ".join(f"{name} {short(one)}" for name, one in row["ms"].items())
    of = f"{row['use']}, {row['network']}, batch {row['batch']}, {100 * row['density']:g} %"
    return f"{of}: {ms} ms"


def main(
    seconds: Annotated[float, typer.Option(min=0.0, help="Of a row.")] = SECONDS,
) -> None:
    """Measure, print and keep."""
    layout = "batch-last or the better of two dense ones"
    measure_and_keep("images", layout, rows(seconds), words, markdown)


if __name__ == "__main__":
    typer.run(main)
