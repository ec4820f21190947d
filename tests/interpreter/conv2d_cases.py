"""Convolutions that the kernels meet in different ways, and their operands and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import masked_conv2d as gpu
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, ...]


class Geometry(NamedTuple):
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Case:
    name: str
    x_size: Size
    weight_size: Size
    geometry: Geometry


# From one tile to several in each dimension, with a rest or without; few channels and many.
CASES = (
    Case("3x3", (2, 3, 6, 5), (4, 3, 3, 3), Geometry(padding=(1, 1))),
    Case("1x1", (2, 3, 4, 5), (4, 3, 1, 1), Geometry()),
    Case("stride leaves a rest", (2, 3, 8, 7), (4, 3, 3, 2), Geometry((3, 2), (0, 1))),
    Case("strided 1x1", (2, 3, 6, 5), (4, 3, 1, 1), Geometry((2, 3))),
    Case("dilated", (2, 3, 9, 8), (4, 3, 3, 2), Geometry((1, 2), (2, 0), (2, 3))),
    Case("stride and dilation share a factor", (1, 2, 11, 9), (3, 2, 3, 3),
         Geometry((4, 2), (3, 2), (2, 2))),
    Case("stride beyond the kernel", (2, 2, 7, 9), (3, 2, 2, 1), Geometry((3, 4), (1, 0))),
    Case("even kernel", (1, 2, 5, 6), (3, 2, 4, 2), Geometry((1, 1), (2, 1))),
    Case("grouped", (2, 4, 6, 5), (6, 2, 3, 3), Geometry((2, 1), (1, 1), groups=2)),
    Case("channels of many tiles", (1, 35, 3, 4), (37, 35, 2, 2), Geometry((1, 2), (1, 0))),
    Case("channels of whole tiles", (1, 32, 4, 4), (32, 32, 1, 3), Geometry(padding=(0, 1))),
    Case("pixels of many tiles", (2, 17, 9, 8), (18, 17, 1, 2), Geometry((1, 1), (0, 1))),
    Case("grouped, many channels", (1, 34, 3, 4), (36, 17, 2, 1), Geometry(groups=2)),
    Case("depthwise", (2, 4, 6, 5), (4, 1, 3, 3), Geometry((2, 2), (1, 1), groups=4)),
    Case("multiplied depthwise", (2, 3, 6, 5), (6, 1, 3, 3), Geometry((1, 1), (1, 1), (2, 1), 3)),
    Case("depthwise, many pixels", (1, 3, 17, 16), (3, 1, 1, 2), Geometry(groups=3)),
    Case("depthwise, many channels", (1, 66, 3, 6), (66, 1, 1, 2), Geometry(groups=66)),
    Case("one channel", (2, 1, 5, 6), (3, 1, 3, 3), Geometry()),
    Case("one pixel", (1, 2, 1, 1), (1, 2, 1, 1), Geometry()),
    Case("no images", (0, 3, 6, 5), (4, 3, 3, 3), Geometry(padding=(1, 1))),
    Case("no depthwise images", (0, 3, 6, 5), (3, 1, 3, 3), Geometry(groups=3)),
)  # fmt: skip


@dataclass(frozen=True)
class Operands:
    x: Tensor
    weight: Tensor
    scores: Tensor | None
    active: Tensor
    bias: Tensor | None
    grad_y: Tensor

    def to(self, dtype: torch.dtype) -> Operands:
        return self.changed(lambda one: one.to(dtype), "x", "weight", "bias", "grad_y")

    def laid_out(self, layout: torch.memory_format) -> Operands:
        return self.changed(lambda one: one.contiguous(memory_format=layout), "x", "grad_y")

    def changed(self, change, *names: str) -> Operands:
        given = {name: getattr(self, name) for name in names}
        return replace(
            self, **{n: None if one is None else change(one) for n, one in given.items()}
        )

    def mask(self) -> Tensor:
        return self.active if self.scores is None else (self.scores >= 0.5) & self.active


class Results(NamedTuple):
    y: Tensor
    x: Tensor
    weight: Tensor
    scores: Tensor


def operands(case: Case, scored: bool = True, whole: bool = False, seed: int = 0) -> Operands:
    """Return operands in float64: normal, or if `whole` -1, 0 and 1, whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(size: Sequence[int]) -> Tensor:
        if whole:
            return torch.randint(-1, 2, tuple(size), generator=generator).double()
        return torch.randn(tuple(size), generator=generator, dtype=torch.float64)

    geometry = case.geometry
    sizes = zip(case.x_size[2:], case.weight_size[2:], *geometry[:3], strict=True)
    y_size = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    return Operands(
        x=numbers(case.x_size),
        weight=numbers(case.weight_size),
        scores=torch.rand(case.weight_size, generator=generator) if scored else None,
        active=torch.rand(case.weight_size, generator=generator) < 0.7,
        bias=numbers(case.weight_size[:1]),
        grad_y=numbers((case.x_size[0], case.weight_size[0], *y_size)),
    )


def by_kernels(of: Operands, geometry: Geometry, module=gpu) -> Results:
    masked = (of.weight, of.scores, of.active)
    return Results(
        module.masked_conv2d(of.x, *masked, of.bias, *geometry),
        module.masked_conv2d_input_grad(of.grad_y, of.x.shape, *masked, *geometry),
        module.masked_conv2d_weight_grad(of.grad_y, of.x, *masked, *geometry),
        module.masked_conv2d_score_grad(of.grad_y, of.x, of.weight, of.active, *geometry),
    )


def by_reference(of: Operands, geometry: Geometry) -> Results:
    return by_kernels(of, geometry, reference)


def by_pytorch(of: Operands, geometry: Geometry) -> Results:
    """The same from plain PyTorch and autograd, in the dtype of the operands."""
    x = of.x.clone().requires_grad_()
    effective = torch.where(of.mask(), of.weight, 0).requires_grad_()
    y = F.conv2d(x, effective, of.bias, *geometry)
    grad_x, grad = torch.autograd.grad(y, (x, effective), of.grad_y)
    wide = torch.promote_types(grad.dtype, torch.float32)
    product = torch.where(of.active, grad.to(wide) * of.weight.to(wide), 0)
    return Results(y.detach(), grad_x, torch.where(of.mask(), grad, 0), product)
