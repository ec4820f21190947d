"""Batch norm by statistics that are given, a residual and ReLU, in the batch-last layout.

The second half of `gemkern.kernels.reference.batch_norm_relu`: mean and variance are operands, with
gradients of their own, so that what made x can measure them while it writes (Ioffe and Szegedy,
"Batch Normalization", ICML 2015, Algorithm 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from gemkern.kernels.reference.batch_last import batch_last
from torch import Tensor


class Norm(NamedTuple):
    """Batch norm by known statistics, a residual and ReLU.

    Attributes:
        mean, var: [C], of a batch, or running.
        weight, bias: [C], or None for 1 and 0.
        eps: added to the variance.
        residual: shaped as what is normalised, added after it; or None.
        relu: whether negative results become 0.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    residual: Tensor | None = None
    relu: bool = True


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """Return relu((x - mean) / sqrt(var + eps) * weight + bias + residual), batch-last.

    Args:
        x: [N, C, ...], any float dtype; float16 and bfloat16 are worked on in float32.
    """
    mean, var, weight, bias, eps, residual, relu = norm
    wide = batch_last(x).to(torch.promote_types(x.dtype, torch.float32))
    y = (wide - per_channel(mean, x)) * per_channel(_scale(var, weight, eps), x)
    if bias is not None:
        y = y + per_channel(bias, x)
    if residual is not None:
        y = y + residual
    return batch_last((y.relu() if relu else y).to(x.dtype))


def normalise_backward(
    grad_y: Tensor,
    y: Tensor,
    x: Tensor,
    norm: Norm,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of `normalise` to x, residual, mean, var, weight and bias.

    Args:
        grad_y, y: dL/dy and the result, shaped as x.
        norm: without its residual.
        has_residual: whether it had one.

    Returns:
        grad_x, grad_residual: as x, batch-last; None without a residual.
        grad_mean, grad_var, grad_weight, grad_bias: [C], None for a weight or bias that is None.
    """
    mean, var, weight, bias, eps, _, relu = norm
    dtype = torch.promote_types(x.dtype, torch.float32)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    g = batch_last(grad_y).to(dtype)
    if relu:
        # Not `y > 0`: the gradient of a NaN passes, as in PyTorch.
        g = g.masked_fill(batch_last(y) <= 0, 0)
    inverse, scale = (var + eps).rsqrt(), _scale(var, weight, eps)
    away = batch_last(x).to(dtype) - per_channel(mean, x)
    sum_g, sum_gx = g.sum(axes), (g * away).sum(axes)
    return (
        batch_last((g * per_channel(scale, x)).to(x.dtype)),
        batch_last(g.to(x.dtype)) if has_residual else None,
        (-sum_g * scale).to(mean.dtype),
        (-0.5 * sum_gx * scale * inverse.square()).to(var.dtype),
        None if weight is None else (sum_gx * inverse).to(weight.dtype),
        None if bias is None else sum_g.to(bias.dtype),
    )


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return values [C] so that they broadcast over x [N, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _scale(var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    inverse = (var + eps).rsqrt()
    return inverse if weight is None else inverse * weight
