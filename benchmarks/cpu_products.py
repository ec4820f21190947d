"""Kernels of the CPU that multiply, with their operations: sparse convolutions, linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from gemkern.kernels import table
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.pattern import pattern
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cpu_layers import BATCH, LAYOUTS, Layer
from benchmarks.cpu_timing import Call
from gemkern import ops
from gemkern.ops.norm_sparse import Norm

Forward = Callable[[], tuple[Tensor, ...]]

DENSITIES = (0.0144, 0.05)
LAYERS = (
    Layer("ResNet-20", 16, 16, 32),
    Layer("ResNet-20", 32, 32, 16),
    Layer("ResNet-20", 64, 64, 8),
    Layer("VGG-16", 64, 64, 32),
    Layer("VGG-16", 256, 256, 8),
    Layer("VGG-16", 512, 512, 4),
)
# Inputs and outputs of a linear layer.
LINEAR = (1024, 1024)
TAPS = 9
# How many products each pass of a convolution with a norm takes.
NORMED = {"norm_sparse_conv2d": 1, "norm_sparse_conv2d_backward": 2}
# Relative, of a float32 sum in another order.
CLOSE = 1e-4


@dataclass(frozen=True)
class Multiplying:
    """A kernel's call, checked, and the dense ones that do the same.

    Attributes:
        of: the layer, in words.
        flop: additions and multiplications of the dense operator, padding counted as zeros.
        useful_flop: those of them with weights that remain.
    """

    operator: str
    of: str
    density: float
    flop: int
    useful_flop: int
    kernel: Call
    dense: Mapping[str, Call]


def products() -> Iterator[Multiplying]:
    """Yield all of them."""
    for layer, density in product(LAYERS, DENSITIES):
        yield from convolutions(layer, density)
    for density in DENSITIES:
        yield from linear(*LINEAR, density)


def convolutions(layer: Layer, density: float) -> Iterator[Multiplying]:
    """Yield both passes of a convolution that normalises what it reads and measures what it writes.

    The backward pass makes the gradients of x and of the weights that remain.

    Raises:
        AssertionError: a result is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (layer.outputs, layer.inputs, 3, 3)
    weight, where, values = _weight(shape, density, generator)
    images = torch.randn(BATCH, layer.inputs, layer.size, layer.size, generator=generator)
    norm = Norm(torch.zeros(layer.inputs), torch.ones(layer.inputs))

    def sparse(backend: str) -> tuple[Forward, list[Tensor]]:
        operands = [batch_last(images).requires_grad_(), values.clone().requires_grad_()]

        def forward() -> tuple[Tensor, ...]:
            made = ops.norm_sparse_conv2d(
                *operands, where, stride=layer.stride, padding=1, norm=norm, moments=True,
                backend=backend,
            )  # fmt: skip
            return tuple(one for one in made if one is not None)

        return forward, operands

    def dense(layout: torch.memory_format) -> tuple[Forward, list[Tensor]]:
        operands = [one.contiguous(memory_format=layout) for one in (images, weight)]
        operands = [one.detach().requires_grad_() for one in operands]

        def forward() -> tuple[Tensor, ...]:
            z = F.batch_norm(operands[0], norm.mean, norm.var).relu()
            y = F.conv2d(z, operands[1], None, layer.stride, 1)
            return y, *torch.var_mean(y, (0, 2, 3))

        return forward, operands

    kernel, reference = _both_passes(*sparse("cpu")), _both_passes(*sparse("reference"))
    rivals = {name: _both_passes(*dense(layout)) for name, layout in LAYOUTS.items()}
    flop, useful = (_flop(layer, count) for count in (weight.numel(), len(values)))
    for place, (operator, passes) in enumerate(NORMED.items()):
        for ours, exact in zip(kernel[place](), reference[place](), strict=True):
            _require_near(ours, exact)
        yield Multiplying(
            operator, _words(layer), density, passes * flop, passes * useful, kernel[place],
            {name: both[place] for name, both in rivals.items()},
        )  # fmt: skip


def _both_passes(forward: Forward, operands: Sequence[Tensor]) -> tuple[Forward, Forward]:
    """Return a forward pass without gradients, and the backward pass of one that was done."""
    y, *_ = forward()
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    # Laid out as y.
    grad_y = torch.empty_like(y).copy_(grad_y)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, operands, grad_y, retain_graph=True)

    return torch.no_grad()(forward), backward


def linear(inputs: int, outputs: int, density: float) -> Iterator[Multiplying]:
    """Yield both passes of a linear layer; the backward pass makes both gradients.

    Raises:
        AssertionError: a result is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    weight, where, values = _weight((outputs, inputs), density, generator)
    x, grad_y = (torch.randn(BATCH, size, generator=generator) for size in (inputs, outputs))
    passes: dict[str, tuple[int, tuple[Any, ...], Callable[[], Any]]] = {
        "sparse_linear": (1, (x, values, where, None), lambda: F.linear(x, weight)),
        "sparse_linear_backward": (
            2, (grad_y, x, values, where, True, True), lambda: (grad_y @ weight, grad_y.T @ x),
        ),
    }  # fmt: skip
    flop, useful = (2 * BATCH * count for count in (weight.numel(), len(values)))
    for operator, (times, arguments, dense) in passes.items():
        kernel = table.load(operator, "cpu")
        found, exact = (
            _listed(one(*arguments)) for one in (kernel, table.load(operator, "reference"))
        )
        for ours, right in zip(found, exact, strict=True):
            _require_near(ours, right)
        yield Multiplying(
            operator, f"linear {inputs} to {outputs}", density, times * flop, times * useful,
            lambda kernel=kernel, arguments=arguments: kernel(*arguments), {"dense": dense},
        )  # fmt: skip


def _weight(
    shape: tuple[int, ...], density: float, generator: torch.Generator
) -> tuple[Tensor, Any, Tensor]:
    """Return a weight with its zeros, the pattern of what remains of it, and the values."""
    where = pattern(torch.rand(shape, generator=generator) < density)
    values = torch.randn(len(where.positions), generator=generator)
    weight = torch.zeros(shape).flatten().index_put((where.positions,), values).view(shape)
    return weight, where, values


def _flop(layer: Layer, weights: int) -> int:
    return 2 * BATCH * (layer.size // layer.stride) ** 2 * weights


def _words(layer: Layer) -> str:
    return f"{layer.inputs} to {layer.outputs} at {layer.size}x{layer.size}"


def _listed(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


def _require_near(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours, exact, rtol=CLOSE, atol=CLOSE * exact.abs().max().item())
