"""The straight-through product: what the gradient of an effective weight means for its score.

Rare Gems (NeurIPS 2022), section 3: the derivative of the rounding counts as 1, so dL/dscore is
dL/dw_eff * w where the weight is active, and 0 where it is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.reference.threshold import select
from torch import Tensor


def straight_through(
    effective_grads: Sequence[Tensor], weights: Sequence[Tensor], active: Sequence[Tensor]
) -> list[Tensor]:
    """Return effective_grad * weight where active and 0 elsewhere, per layer.

    The product is taken and returned in float32, or in float64 for a float64 weight.
    """
    return [product(*layer) for layer in zip(effective_grads, weights, active, strict=True)]


def product(effective_grad: Tensor, weight: Tensor, active: Tensor) -> Tensor:
    """Return `straight_through` of one layer."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return select(effective_grad.to(dtype) * weight.to(dtype), active)
