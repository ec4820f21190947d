"""Time sparse convolutions on the CPU, layer by layer, beside PyTorch's dense ones.

Each row is a layer, a pass and a density. Sparse and dense take turns, a few calls in
a row each, and the row holds their medians; the baseline is the faster of the contiguous and the
channels-last layout. A wrong result is not timed. The process keeps the memory that it frees, as it
does in a training loop: otherwise the page faults of fresh outputs would be timed, on both sides.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from gemkern.kernels.cpu import norm_sparse_conv2d as fused
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.pattern import Pattern, pattern
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cpu_timing import interleaved, spread
from gemkern.nn import keep_freed_memory

BATCH = 128
DENSITIES = (0.005, 0.0144, 0.05, 0.2, 0.5)
PASSES = ("forward", "input gradient", "weight gradient")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CALLS_IN_A_ROW = 4
# Of a row, for all its contenders.
SECONDS = 0.6
Call = Callable[[], Tensor]


class Layer(NamedTuple):
    """A 3x3 convolution with padding 1 on square images."""

    network: str
    inputs: int
    outputs: int
    size: int
    stride: int = 1


LAYERS = (
    Layer("ResNet-20", 16, 16, 32),
    Layer("ResNet-20", 16, 32, 32, 2),
    Layer("ResNet-20", 32, 32, 16),
    Layer("ResNet-20", 32, 64, 16, 2),
    Layer("ResNet-20", 64, 64, 8),
    Layer("VGG-16", 64, 64, 32),
    Layer("VGG-16", 64, 128, 16),
    Layer("VGG-16", 128, 128, 16),
    Layer("VGG-16", 128, 256, 8),
    Layer("VGG-16", 256, 256, 8),
    Layer("VGG-16", 256, 512, 4),
    Layer("VGG-16", 512, 512, 4),
    Layer("VGG-16", 512, 512, 2),
    Layer("WideResNet-28-2", 32, 32, 32),
    Layer("WideResNet-28-2", 32, 64, 32, 2),
    Layer("WideResNet-28-2", 64, 64, 16),
    Layer("WideResNet-28-2", 64, 128, 16, 2),
    Layer("WideResNet-28-2", 128, 128, 8),
)


@dataclass(frozen=True)
class Row:
    """A measurement; times are milliseconds, a spread the first and third quartile of them."""

    network: str
    inputs: int
    outputs: int
    size: int
    stride: int
    batch: int
    density: float
    threads: int
    which: str
    sparse: float
    sparse_spread: tuple[float, float]
    dense: float
    dense_spread: tuple[float, float]
    dense_layout: str
    ratio: float


def rows(
    layers: tuple[Layer, ...] = LAYERS,
    densities: tuple[float, ...] = DENSITIES,
    seconds: float = SECONDS,
) -> Iterator[Row]:
    """Measure every layer, density and pass on torch's number of threads, in `seconds` each."""
    keep_freed_memory()
    for layer in layers:
        for density in densities:
            for which, contenders in calls(layer, density).items():
                yield _row(layer, density, which, interleaved(contenders, seconds, CALLS_IN_A_ROW))


def calls(layer: Layer, density: float) -> dict[str, dict[str, Call]]:
    """Return by pass the sparse call and the dense ones, by name, checked against each other."""
    generator = torch.Generator().manual_seed(0)
    shape = (layer.outputs, layer.inputs, 3, 3)
    where = pattern(torch.rand(shape, generator=generator) < density)
    values = torch.randn(len(where.positions), generator=generator)
    weight = torch.zeros(shape).flatten().index_put((where.positions,), values).view(shape)
    stride, ones = (layer.stride,) * 2, (1, 1)
    x = torch.randn(BATCH, layer.inputs, layer.size, layer.size, generator=generator)
    grad_y = torch.randn(F.conv2d(x, weight, None, stride, 1).shape, generator=generator)
    geometry = Geometry(stride, ones, ones)
    sparse = _sparse(batch_last(x), batch_last(grad_y), values, where, geometry)
    made = {which: {"sparse": call} for which, call in zip(PASSES, sparse, strict=True)}
    for name, layout in LAYOUTS.items():
        operands = [tensor.contiguous(memory_format=layout) for tensor in (grad_y, x, weight)]
        for which, call in zip(PASSES, _dense(*operands, stride), strict=True):
            made[which][name] = call
    _check(made, where.positions)
    return made


def _sparse(
    x: Tensor, grad_y: Tensor, values: Tensor, where: Pattern, geometry: Geometry
) -> list[Call]:
    """Return our three passes, without a norm."""

    def forward() -> Tensor:
        operands = (x, None, values, where, None, None, False, False, geometry)
        return fused.norm_sparse_conv2d(*operands)[0]

    def backward(wants_x: bool) -> Any:
        return fused.norm_sparse_conv2d_backward(
            NormSparse(grad_y, None, None, None, None), None, None, None, x, None, values, where,
            False, False, wants_x, not wants_x, geometry,
        )  # fmt: skip

    return [forward, lambda: backward(True).x, lambda: backward(False).values]


def _dense(grad_y: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> list[Call]:
    """Return PyTorch's three passes."""

    def forward() -> Tensor:
        return F.conv2d(x, weight, None, stride, 1)

    def backward(outputs: list[bool]) -> Call:
        geometry = (stride, (1, 1), (1, 1), False, (0, 0), 1)
        function = torch.ops.aten.convolution_backward
        place = outputs.index(True)
        return lambda: function(grad_y, x, weight, None, *geometry, outputs)[place]

    return [forward, backward([True, False, False]), backward([False, True, False])]


def _check(made: dict[str, dict[str, Call]], positions: Tensor) -> None:
    """Raise where a sparse result is not the dense one."""
    for which, contenders in made.items():
        ours, dense = contenders["sparse"](), contenders["contiguous"]()
        expected = dense.flatten()[positions] if which == "weight gradient" else dense
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * scale)


def _row(layer: Layer, density: float, which: str, times: dict[str, list[float]]) -> Row:
    medians = {name: statistics.median(found) for name, found in times.items()}
    layout = min(LAYOUTS, key=lambda name: medians[name])
    sparse, dense = medians["sparse"], medians[layout]
    return Row(
        *layer, BATCH, density, torch.get_num_threads(), which, sparse, spread(times["sparse"]),
        dense, spread(times[layout]), layout, dense / sparse,
    )  # fmt: skip


def summary(measured: list[Row]) -> list[dict[str, Any]]:
    """Return the geometric mean of the ratios by density and pass."""
    found = []
    for density in sorted({row.density for row in measured}):
        for which in PASSES:
            ratios = [row.ratio for row in measured if (row.density, row.which) == (density, which)]
            mean = statistics.geometric_mean(ratios)
            found.append({"density": density, "which": which, "geometric_mean": mean})
    return found


def main() -> None:
    """Print a line of JSON for each row, then for each geometric mean."""
    measured = []
    for row in rows():
        measured.append(row)
        print(json.dumps(asdict(row)), flush=True)
    for line in summary(measured):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
