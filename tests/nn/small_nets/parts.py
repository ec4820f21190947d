"""What most of the small networks are put together of, eight channels wide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def conv(of: int = 8, to: int = 8, size: Any = 3, **options: Any) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size of images."""
    padding = size // 2 if isinstance(size, int) else [one // 2 for one in size]
    return nn.Conv2d(of, to, size, **{"padding": padding, "bias": False, **options})


def unit(of: int = 8, to: int = 8, size: Any = 3, **options: Any) -> nn.Sequential:
    """Return a convolution, its norm and a ReLU in place."""
    return nn.Sequential(conv(of, to, size, **options), nn.BatchNorm2d(to), nn.ReLU(inplace=True))


def head(of: int = 8) -> nn.Sequential:
    """Return a classifier of the means of the channels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(of, 5))


def framed(*middle: nn.Module, of: int = 8) -> nn.Sequential:
    """Return `middle` between a first unit and a classifier of its `of` channels."""
    return nn.Sequential(unit(3, 8), *middle, head(of))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
