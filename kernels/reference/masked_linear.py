"""A linear layer under a mask, and its gradients.

x is [..., Ki], weight [Ko, Ki]; scores (or None) and active (bool) are shaped as the weight. The
effective weight is cast to the dtype of x, or of the gradient, before it is used. Straight-through:
Rare Gems (NeurIPS 2022), section 3.
"""

from __future__ import annotations

import torch
from gemkern.kernels.reference.straight_through import product
from gemkern.kernels.reference.threshold import mask_of, select
from torch import Tensor
from torch.nn import functional as F


def masked_linear(
    x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor, bias: Tensor | None
) -> Tensor:
    """Return x @ where(mask, weight, 0).T + bias, [..., Ko] in the dtype of x."""
    effective = select(weight, mask_of(scores, active)).to(x.dtype)
    return F.linear(x, effective, None if bias is None else bias.to(x.dtype))


def masked_linear_input_grad(
    grad_y: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    """Return dL/dx, [..., Ki] in the dtype of grad_y [..., Ko]."""
    return grad_y @ select(weight, mask_of(scores, active)).to(grad_y.dtype)


def masked_linear_weight_grad(
    grad_y: Tensor, x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    """Return dL/dw_eff where the mask is on and 0 elsewhere, in the dtype of the weight."""
    return select(_effective_grad(grad_y, x), mask_of(scores, active)).to(weight.dtype)


def masked_linear_score_grad(grad_y: Tensor, x: Tensor, weight: Tensor, active: Tensor) -> Tensor:
    """Return dL/dw_eff * weight where active and 0 elsewhere: the straight-through gradient.

    The product is taken and returned in float32, or in float64 for a float64 weight.
    """
    return product(_effective_grad(grad_y, x), weight, active)


def _effective_grad(grad_y: Tensor, x: Tensor) -> Tensor:
    return grad_y.flatten(0, -2).T @ x.flatten(0, -2) if x.dim() > 1 else torch.outer(grad_y, x)
