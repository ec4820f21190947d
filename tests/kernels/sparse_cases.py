"""Sparse layers of many geometries, with operands, and their three passes by any module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

import torch
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.pattern import Pattern, pattern
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A convolution: batch, channels of a group on both sides, groups, image, kernel, walk."""

    batch: int = 3
    inputs: int = 3
    outputs: int = 4
    groups: int = 1
    image: Pair = (6, 5)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    density: float = 0.4

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def output_image(self) -> Pair:
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                self.image, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return height, width


CASES = {
    "3x3": Case(),
    "1x1": Case(kernel=(1, 1), padding=(0, 0)),
    "stride leaves a rest": Case(image=(8, 7), kernel=(3, 2), stride=(3, 2), padding=(0, 1)),
    "stride beyond the kernel": Case(kernel=(1, 2), stride=(2, 3), padding=(0, 0)),
    "dilated": Case(image=(9, 8), kernel=(3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 3)),
    "dilated and strided alike": Case(image=(9, 8), stride=(2, 2), dilation=(2, 2)),
    "padding beyond the image": Case(image=(1, 2), padding=(3, 3)),
    "grouped": Case(groups=2, inputs=2, outputs=3, stride=(2, 1)),
    "depthwise": Case(groups=4, inputs=1, outputs=1, stride=(2, 2)),
    "multiplied depthwise": Case(groups=3, inputs=1, outputs=2, dilation=(2, 1)),
    "one pixel": Case(image=(1, 1)),
    "kernel of the image's size": Case(image=(4, 4), kernel=(4, 4), padding=(2, 2)),
    "nothing remains": Case(density=0.0),
    "nothing remains, grouped": Case(groups=3, density=0.0),
    "all remains": Case(density=1.0),
    "no images": Case(batch=0),
    "no input channels": Case(inputs=0),
    "no output channels": Case(outputs=0),
    "few remain": Case(outputs=12, density=0.02),
}


@dataclass(frozen=True)
class Operands:
    """What the passes of a case take."""

    active: Tensor
    pattern: Pattern
    values: Tensor
    x: Tensor
    bias: Tensor | None
    grad_y: Tensor

    def to(self, dtype: torch.dtype) -> Operands:
        names = ("values", "x", "bias", "grad_y")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    @property
    def weight(self) -> Tensor:
        weight = torch.zeros(self.pattern.shape, dtype=self.values.dtype)
        weight[self.active] = self.values
        return weight


def operands(case: Case, whole: bool, seed: int = 0) -> Operands:
    """Return operands in float64: normal, or whole numbers whose sums are exact in float32."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    outputs, inputs = case.outputs * case.groups, case.inputs * case.groups
    shape = (outputs, case.inputs, *case.kernel)
    active = torch.rand(shape, generator=generator) < case.density
    active[1:2], active[:, 1:2] = False, False  # An empty row, a dead channel.
    if case.density == 1:
        active[:] = True
    where = pattern(active)
    return Operands(
        active=active,
        pattern=where,
        values=numbers(len(where.positions)),
        x=numbers(case.batch, inputs, *case.image),
        bias=numbers(outputs),
        grad_y=numbers(case.batch, outputs, *case.output_image),
    )


class Results(NamedTuple):
    """The output and the gradients of a layer."""

    y: Tensor
    x: Tensor
    values: Tensor


def results(kernels: ModuleType, case: Case, of: Operands) -> Results:
    """Return the output of a convolution and its gradients, by a module of kernels."""
    y = convolution(kernels, case, of.x, of.values, of.pattern, of.bias)
    return Results(y, *gradients(kernels, case, of, True, True))


def convolution(
    kernels: ModuleType,
    case: Case,
    x: Tensor,
    values: Tensor,
    where: Pattern,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the output of a convolution without a norm."""
    operands = x, None, values, where, bias, None, False, False, case.geometry
    return kernels.norm_sparse_conv2d(*operands)[0]


def gradients(
    kernels: ModuleType, case: Case, of: Operands, wants_x: bool, wants_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of the values that are wanted."""
    made = kernels.norm_sparse_conv2d_backward(
        NormSparse(of.grad_y, None, None, None, None), None, None, None, of.x, None, of.values,
        of.pattern, False, False, wants_x, wants_values, case.geometry,
    )  # fmt: skip
    return made.x, made.values
