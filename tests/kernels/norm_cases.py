"""Batch norm with all that goes around it, forward and back, by kernels and by PyTorch."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import NamedTuple

import torch
from gemkern.kernels.reference.batch_last import batch_last
from torch import Tensor, nn

MOMENTUM, EPS = 0.2, 1e-3


class Norm(NamedTuple):
    """Which of the parts there are."""

    training: bool
    relu: bool
    residual: bool
    affine: bool


NORMS = [Norm(*parts) for parts in itertools.product((True, False), repeat=4)]


class Operands(NamedTuple):
    """Of one batch norm; weight, bias and residual may be None."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    grad_y: Tensor

    def to(self, dtype: torch.dtype) -> Operands:
        return Operands(*(None if t is None else t.to(dtype, copy=True) for t in self))


def operands(norm: Norm, shape: tuple[int, ...], seed: int = 0, centre: float = 3.0) -> Operands:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    channels = shape[1]
    return Operands(
        x=batch_last(draw(*shape) + centre),
        residual=batch_last(draw(*shape)) if norm.residual else None,
        weight=draw(channels) if norm.affine else None,
        bias=draw(channels) if norm.affine else None,
        running_mean=draw(channels),
        running_var=draw(channels).square() + 0.5,
        grad_y=batch_last(draw(*shape)),
    )


class Results(NamedTuple):
    """What a batch norm returns or changes, forward and back."""

    y: Tensor
    running_mean: Tensor
    running_var: Tensor
    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def by_kernels(kernels: ModuleType, norm: Norm, of: Operands) -> Results:
    y, mean, invstd = kernels.batch_norm_relu(*of[:-1], norm.training, MOMENTUM, EPS, norm.relu)
    gradients = kernels.batch_norm_relu_backward(
        of.grad_y, of.x, y if norm.relu and norm.residual else None, of.weight, of.bias, mean,
        invstd, norm.training, norm.relu, norm.residual,
    )  # fmt: skip
    return Results(y, of.running_mean, of.running_var, *gradients)


def by_modules(norm: Norm, of: Operands) -> Results:
    """The same from nn.BatchNorm2d and autograd."""
    module = nn.BatchNorm2d(of.x.shape[1], EPS, MOMENTUM, affine=norm.affine).to(of.x.dtype)
    module.train(norm.training)
    state = {"running_mean": of.running_mean, "running_var": of.running_var}
    if of.weight is not None and of.bias is not None:
        state |= {"weight": of.weight, "bias": of.bias}
    module.load_state_dict(state, strict=False)
    x = of.x.contiguous().requires_grad_()
    residual = of.residual.contiguous().requires_grad_() if of.residual is not None else None
    y = module(x)
    y = y if residual is None else y + residual
    y = y.relu() if norm.relu else y
    y.backward(of.grad_y)
    assert module.running_mean is not None
    assert module.running_var is not None
    return Results(
        y.detach(),
        module.running_mean,
        module.running_var,
        x.grad,
        residual.grad if residual is not None and norm.relu else None,
        module.weight.grad if norm.affine else None,
        module.bias.grad if norm.affine else None,
    )
