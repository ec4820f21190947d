"""Small masked layers with random numbers in them, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gemkern import ops


@dataclass
class Layer:
    """Operands of a masked operator, the operator, and its plain PyTorch twin."""

    x: Tensor
    weight: Tensor
    scores: Tensor | None
    active: Tensor
    bias: Tensor | None
    masked: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    geometry: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **changed: Any) -> Tensor:
        given = {"x": self.x, "weight": self.weight, "scores": self.scores, "active": self.active,
                 "bias": self.bias, **self.geometry, **changed}  # fmt: skip
        return self.masked(**given)

    def mask(self) -> Tensor:
        return self.active if self.scores is None else (self.scores >= 0.5) & self.active

    def plain_output(self, effective: Tensor) -> Tensor:
        return self.plain(self.x, effective, self.bias, **self.geometry)


def linear(dtype: torch.dtype = torch.float32, scores: bool = True, seed: int = 0) -> Layer:
    """A linear layer, 5 to 3, on a batch of 2 x 4."""
    return _layer((2, 4, 5), (3, 5), dtype, scores, seed, ops.masked_linear,
                  torch.nn.functional.linear, {})  # fmt: skip


def conv2d(dtype: torch.dtype = torch.float32, scores: bool = True, seed: int = 0) -> Layer:
    """A grouped, strided, padded and dilated convolution, 4 to 6 channels, on 2 images."""
    geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    return _layer((2, 4, 7, 6), (6, 2, 3, 2), dtype, scores, seed, ops.masked_conv2d,
                  torch.nn.functional.conv2d, geometry)  # fmt: skip


def _layer(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    dtype: torch.dtype,
    scores: bool,
    seed: int,
    masked: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    geometry: dict[str, Any],
) -> Layer:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Layer(
        x=normal(*x_shape),
        weight=normal(*weight_shape),
        scores=torch.rand(weight_shape, generator=generator, dtype=wide) if scores else None,
        active=torch.rand(weight_shape, generator=generator) < 0.7,
        bias=normal(weight_shape[0]),
        masked=masked,
        plain=plain,
        geometry=geometry,
    )


LAYERS = (linear, conv2d)
