"""Masked layers of many geometries, each beside its plain PyTorch twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from gemkern.kernels import reference
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """Shapes of a masked layer; `geometry` is (stride, padding, dilation, groups), () if linear."""

    name: str
    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    geometry: tuple[Any, ...] = ()

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return (F.conv2d if self.geometry else F.linear)(x, weight, bias, *self.geometry)

    def forward(self, of: Operands) -> Tensor:
        return self._kernel("")(of.x, of.weight, of.scores, of.active, of.bias, *self.geometry)

    def input_grad(self, of: Operands) -> Tensor:
        size = (of.x.shape,) if self.geometry else ()
        masked = (of.weight, of.scores, of.active)
        return self._kernel("_input_grad")(of.grad_y, *size, *masked, *self.geometry)

    def weight_grad(self, of: Operands) -> Tensor:
        masked = (of.weight, of.scores, of.active)
        return self._kernel("_weight_grad")(of.grad_y, of.x, *masked, *self.geometry)

    def score_grad(self, of: Operands) -> Tensor:
        masked = (of.weight, of.active)
        return self._kernel("_score_grad")(of.grad_y, of.x, *masked, *self.geometry)

    def _kernel(self, suffix: str) -> Callable[..., Tensor]:
        return getattr(reference, f"masked_{'conv2d' if self.geometry else 'linear'}{suffix}")


@dataclass(frozen=True)
class Operands:
    """What the kernels of a case take."""

    x: Tensor
    weight: Tensor
    scores: Tensor | None
    active: Tensor
    bias: Tensor | None
    grad_y: Tensor

    def mask(self) -> Tensor:
        return self.active if self.scores is None else (self.scores >= 0.5) & self.active

    def to(self, dtype: torch.dtype) -> Operands:
        """Return these with all but the masks in `dtype`."""
        names = ("x", "weight", "bias", "grad_y")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})


CASES = (
    Case("vector", (5,), (3, 5)),
    Case("rows", (4, 5), (3, 5)),
    Case("more dimensions", (2, 3, 5), (4, 5)),
    Case("no rows", (0, 5), (3, 5)),
    Case("no inputs", (4, 0), (3, 0)),
    Case("no outputs", (4, 5), (0, 5)),
    Case("3x3", (2, 3, 6, 5), (4, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
    Case("1x1", (2, 3, 4, 5), (4, 3, 1, 1), ((1, 1), (0, 0), (1, 1), 1)),
    Case("stride leaves a rest", (2, 3, 8, 7), (4, 3, 3, 2), ((3, 2), (0, 1), (1, 1), 1)),
    Case("strided 1x1", (2, 3, 6, 5), (4, 3, 1, 1), ((2, 3), (0, 0), (1, 1), 1)),
    Case("dilated", (2, 3, 9, 8), (4, 3, 3, 2), ((1, 2), (2, 0), (2, 3), 1)),
    Case("grouped", (2, 4, 6, 5), (6, 2, 3, 3), ((2, 1), (1, 1), (1, 1), 2)),
    Case("depthwise", (2, 4, 6, 5), (4, 1, 3, 3), ((2, 2), (1, 1), (1, 1), 4)),
    Case("multiplied depthwise", (2, 3, 6, 5), (6, 1, 3, 3), ((1, 1), (1, 1), (2, 1), 3)),
    Case("no images", (0, 3, 6, 5), (4, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
)


def random_operands(case: Case, scored: bool, seed: int = 0) -> Operands:
    """Return operands in float64, normal."""
    return _operands(case, scored, seed, lambda *args, **kw: torch.randn(*args, **kw))


def whole_operands(case: Case, scored: bool, seed: int = 0) -> Operands:
    """Return operands in float64 that are -1, 0 or 1: sums of them are exact in any dtype."""
    return _operands(case, scored, seed, lambda shape, **kw: torch.randint(-1, 2, shape, **kw))


def _operands(case: Case, scored: bool, seed: int, draw: Callable[..., Tensor]) -> Operands:
    generator = torch.Generator().manual_seed(seed)

    def numbers(shape: tuple[int, ...]) -> Tensor:
        return draw(shape, generator=generator, dtype=torch.float64)

    x, weight = numbers(case.x_shape), numbers(case.weight_shape)
    return Operands(
        x=x,
        weight=weight,
        scores=torch.rand(case.weight_shape, generator=generator) if scored else None,
        active=torch.rand(case.weight_shape, generator=generator) < 0.7,
        bias=numbers(case.weight_shape[:1]),
        grad_y=numbers(tuple(case.plain(x, weight).shape)),
    )
