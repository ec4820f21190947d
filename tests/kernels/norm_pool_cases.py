"""Norms with windows to pool over, forward and back by any module."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.normalise import Norm
from torch import Tensor


class Windows(NamedTuple):
    """By height and width, without padding."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


# Of an image of 9 x 7: that leave rows and columns over, or pixels between them, or none.
WINDOWS = [
    Windows((2, 2), (2, 2)),
    Windows((3, 1), (3, 1)),
    Windows((2, 3), (4, 3)),
    Windows((1, 2), (3, 4)),
    Windows((9, 7), (9, 7)),
    Windows((1, 1), (1, 1)),
]


class Operands(NamedTuple):
    """Of a norm; weight and bias may be None."""

    x: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def norm(self, eps: float, relu: bool) -> Norm:
        return Norm(*self[1:], eps, None, relu)

    def to(self, dtype: torch.dtype) -> Operands:
        return Operands(*(None if one is None else one.to(dtype) for one in self))


def operands(*shape: int, affine: bool = True, whole: bool = True, seed: int = 0) -> Operands:
    """Return float32 operands; whole numbers, if so, whose results float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*size: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, size, generator=generator).float()
        return torch.randn(size, generator=generator)

    powers = torch.tensor([0.25, 1.0, 4.0])
    channels = shape[1]
    return Operands(
        x=batch_last(numbers(*shape)),
        mean=numbers(channels),
        var=powers[torch.randint(0, 3, (channels,), generator=generator)],
        weight=numbers(channels) if affine else None,
        bias=numbers(channels) if affine else None,
    )


def gradient_of(y: Tensor) -> Tensor:
    """Return whole numbers for dL/dy."""
    return torch.arange(y.numel()).remainder(7).sub(3).to(y.dtype).view(y.shape)


def both_passes(module: ModuleType, of: Operands, relu: bool, windows: Windows) -> list[Any]:
    """Return y, taps and the gradients, without an eps."""
    how = of.norm(0.0, relu), *windows
    y, taps = module.normalise_max_pool2d(of.x, *how)
    grads = module.normalise_max_pool2d_backward(gradient_of(y), y, taps, of.x, *how)
    return [y, taps, *grads]
