"""Masked linear layers and convolutions: their four passes, two ways, beside plain PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import masked_conv2d, masked_linear, materialised
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.exactness import require_as_exact_as

# Modules that serve an operator: the mask inside the product, or the effective weight first.
WAYS = {
    "in-kernel": {"linear": masked_linear, "conv2d": masked_conv2d},
    "materialised": {"linear": materialised, "conv2d": materialised},
}
_SUFFIXES = ("", "_input_grad", "_weight_grad", "_score_grad")
PASSES = tuple(f"masked_{kind}{suffix}" for kind in ("linear", "conv2d") for suffix in _SUFFIXES)

# Stride, padding, dilation, groups; empty for a linear layer.
Geometry = tuple[Any, ...]


@dataclass(frozen=True)
class Operands:
    """What the passes take; weight and scores are float32, x and grad_y of the compute dtype."""

    x: Tensor
    weight: Tensor
    scores: Tensor
    active: Tensor
    grad_y: Tensor

    def mask(self) -> Tensor:
        return (self.scores >= 0.5) & self.active

    def double(self) -> Operands:
        x, weight, grad_y = (one.double() for one in (self.x, self.weight, self.grad_y))
        return replace(self, x=x, weight=weight, grad_y=grad_y)


@dataclass(frozen=True)
class Case:
    """The shapes of a layer; `order` is of x and of the weight: contiguous, last or turned."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    geometry: Geometry = ()
    order: str = "contiguous"

    def random(self, device: str, dtype: torch.dtype, density: float = 0.35) -> Operands:
        """Return operands; a fraction `density` of the mask is on, of active entries one half.

        On the device "meta" they have no numbers and take no memory.
        """
        generator = None if device == "meta" else torch.Generator(device).manual_seed(0)

        def numbers(*shape: int) -> Tensor:
            made = torch.randn(shape, generator=generator, device=device)
            if self.order == "turned":
                return made.T.contiguous().T
            last = self.order == "last" and made.dim() == 4
            return made.contiguous(memory_format=torch.channels_last) if last else made

        x, weight = numbers(*self.x), numbers(*self.weight)
        scores, active = (torch.empty_like(weight).uniform_(generator=generator) for _ in range(2))
        return Operands(
            x=x.to(dtype),
            # Exact in the compute dtype: the cast of the weight is no error of a product.
            weight=weight.to(dtype).float(),
            scores=scores,
            active=active < 2 * density,
            grad_y=numbers(*self.y_shape()).to(dtype),
        )

    def serves(self, operator: str) -> bool:
        """Return whether `operator`, one of PASSES, is one of this kind of layer."""
        return bool(self.geometry) == ("conv2d" in operator)

    def y_shape(self) -> tuple[int, ...]:
        if not self.geometry:
            return (*self.x[:-1], self.weight[0])
        sizes = zip(self.x[2:], self.weight[2:], *self.geometry[:3], strict=True)
        pixels = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return (self.x[0], self.weight[0], *pixels)

    def multiplications(self) -> int:
        """Return how many products of two numbers each of the four passes takes."""
        return math.prod((*self.y_shape(), *self.weight[1:]))


def arguments(operator: str, of: Operands, geometry: Geometry) -> tuple[Any, ...]:
    """Return what `operator`, one of PASSES, takes."""
    masked = (of.weight, of.scores, of.active)
    if operator.endswith("_input_grad"):
        size = (of.x.shape,) if geometry else ()
        return (of.grad_y, *size, *masked, *geometry)
    if operator.endswith("_weight_grad"):
        return (of.grad_y, of.x, *masked, *geometry)
    if operator.endswith("_score_grad"):
        return (of.grad_y, of.x, of.weight, of.active, *geometry)
    return (of.x, *masked, None, *geometry)


def run(operator: str, way: str, of: Operands, geometry: Geometry) -> Tensor:
    module = WAYS[way][operator.split("_")[1]]
    return getattr(module, operator)(*arguments(operator, of, geometry))


def check(operator: str, way: str, of: Operands, geometry: Geometry, rounded: bool) -> float:
    """Check one pass by its error against float64 and plain PyTorch's; return the error.

    `rounded` allows TF32, for both.

    Raises:
        WrongResult: the error is more than twice that of plain PyTorch in the same dtype.
    """
    with tf32(rounded):
        got = run(operator, way, of, geometry)
        plain = by_pytorch(operator, of, geometry)
    with tf32(False):
        wide = arguments(operator, of.double(), geometry)
        exact = getattr(reference, operator)(*wide)
    return require_as_exact_as(got, plain, exact, f"{operator} {way} {tuple(of.x.shape)}")


def by_pytorch(operator: str, of: Operands, geometry: Geometry) -> Tensor:
    """Return the same from plain PyTorch and autograd, computed in the dtype of x."""
    x = of.x.detach().clone().requires_grad_()
    effective = torch.where(of.mask(), of.weight, 0).to(x.dtype).requires_grad_()
    y = F.conv2d(x, effective, None, *geometry) if geometry else F.linear(x, effective)
    if operator.endswith(("linear", "conv2d")):
        return y.detach()
    to_x, to_effective = torch.autograd.grad(y, (x, effective), of.grad_y)
    if operator.endswith("_input_grad"):
        return to_x
    if operator.endswith("_weight_grad"):
        return torch.where(of.mask(), to_effective, 0).float()
    return torch.where(of.active, to_effective.float() * of.weight, 0)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let PyTorch round float32 products to TF32, or not; cuDNN tries no algorithms meanwhile."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    cudnn.allow_tf32, cudnn.benchmark = allowed, False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]
