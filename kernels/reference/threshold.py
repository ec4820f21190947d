"""Scores to masks and effective weights, for one layer or a whole model.

Rare Gems (NeurIPS 2022), Algorithm 1: the mask is r(p) * q, r rounding a score p up where it is at
least one half and q telling which weights are still active.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TAU = 0.5


def mask_of(scores: Tensor | None, active: Tensor, tau: float | Tensor = TAU) -> Tensor:
    """Return the bool mask of one layer: (scores >= tau) & active; a NaN score is off.

    Without scores the mask is `active` itself, not a copy.
    """
    return active if scores is None else (scores >= tau) & active


def threshold(
    scores: Sequence[Tensor] | None, active: Sequence[Tensor], tau: float | Tensor = TAU
) -> list[Tensor]:
    """Return the bool mask of each layer, shaped as `active`, in storage of its own."""
    if scores is None:
        return [layer.clone() for layer in active]
    return [mask_of(*layer, tau) for layer in zip(scores, active, strict=True)]


def effective_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float | Tensor = TAU,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> list[Tensor]:
    """Return each layer's weight where its mask is on and +0.0 elsewhere.

    The mask selects and never multiplies: -w * 0 would be -0.0 and inf * 0 NaN. The result is in
    `dtype` (default: the weight's); `memory_format` is for 4-d weights, others keep theirs.
    """
    given: Sequence[Tensor | None] = [None] * len(weights) if scores is None else scores
    return [
        select(weight, mask_of(score, on, tau)).to(
            dtype or weight.dtype,
            memory_format=memory_format if weight.dim() == 4 else torch.preserve_format,
        )
        for weight, score, on in zip(weights, given, active, strict=True)
    ]


def select(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` where `mask` is on and +0.0 elsewhere, in the layout of `values`."""
    # torch.where would take the layout of the mask.
    return values.clone().masked_fill_(~mask, 0)
