"""What the scores of Gem-Miner may start from: the choices of the authors' public code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[torch.Size, torch.Generator], Tensor]


def _uniform(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=stream)


def _half(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return torch.full(shape, 0.5)


def _bernoulli(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=stream) < 0.5).float()


def _beta(alpha: float, beta: float) -> Draw:
    """Return what draws from Beta(alpha, beta): the share of one of two gamma numbers."""

    def draw(shape: torch.Size, stream: torch.Generator) -> Tensor:
        one, other = (
            torch._standard_gamma(torch.full(shape, form, dtype=torch.float64), generator=stream)
            for form in (alpha, beta)
        )
        return (one / (one + other)).float()

    return draw


# Each draws scores of a shape, float32 in [0, 1].
STARTS: dict[str, Draw] = {
    "uniform": _uniform,
    "half": _half,
    "bernoulli": _bernoulli,
    "bimodal": _beta(0.1, 0.1),
    "skewed": _beta(1.0, 5.0),
}
