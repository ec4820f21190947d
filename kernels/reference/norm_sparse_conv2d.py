"""A sparse convolution that normalises what it reads and measures what it writes.

Batch norm lies between two convolutions: its statistics are measured where the first writes, and it
is applied where the second reads, so that neither costs a pass over the activation. A residual is
added where the norm is applied (He et al., CVPR 2016) or where the convolution writes (the
pre-activation order of He et al., ECCV 2016).

x is [N, Ci, H, W], y [N, Co, H', W'], batch-last; `pattern`, `values` and the geometry are those of
`gemkern.kernels.reference.sparse_conv2d`, norm_weight, norm_bias, eps and relu those of
`gemkern.kernels.reference.normalise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.normalise import normalise, normalise_backward, per_channel
from gemkern.kernels.reference.pattern import Pattern
from gemkern.kernels.reference.sparse_conv2d import (
    sparse_conv2d,
    sparse_conv2d_input_grad,
    sparse_conv2d_weight_grad,
)
from torch import Tensor

Pair = Sequence[int]
IMAGES = (0, 2, 3)


class Gradients(NamedTuple):
    """What `norm_sparse_conv2d_backward` returns; None for an operand that was None."""

    x: Tensor | None
    residual: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    values: Tensor | None
    added: Tensor | None


def norm_sparse_conv2d(
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    eps: float,
    relu: bool,
    keep: bool,
    moments: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return y = conv(z) + bias + added for z = normalise(x, residual, ...), z, and moments of y.

    Args:
        residual: as x, or None.
        mean, var: [Ci], or None: then z is x.
        bias: [Co] or None.
        added: as y, or None.
        keep: whether z is returned.
        moments: whether mean and (biased) variance of y over images and pixels, [Co], are.
    """
    geometry = (stride, padding, dilation, groups)
    z = x
    if mean is not None and var is not None:
        z = normalise(x, residual, mean, var, norm_weight, norm_bias, eps, relu)
    y = sparse_conv2d(z, values, pattern, bias, *geometry)
    if added is not None:
        y = batch_last(y + added)
    if not moments:
        return y, z if keep else None, None, None
    mean_y = y.mean(IMAGES)
    return y, z if keep else None, mean_y, (y - per_channel(mean_y, y)).square().mean(IMAGES)


def norm_sparse_conv2d_backward(
    grad_y: Tensor,
    grad_z: Tensor | None,
    grad_mean_y: Tensor | None,
    grad_var_y: Tensor | None,
    grad_skip: Tensor | None,
    y: Tensor | None,
    mean_y: Tensor | None,
    z: Tensor | None,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    values: Tensor,
    pattern: Pattern,
    eps: float,
    relu: bool,
    has_residual: bool,
    has_added: bool,
    wants_x: bool,
    wants_values: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Gradients:
    """Return the gradients of `norm_sparse_conv2d`.

    Args:
        grad_y: dL/dy, without the share of its moments.
        grad_z: what else z was used for, or None; grad_skip: the same of x.
        grad_mean_y, grad_var_y, y, mean_y: the gradients of the moments, and what they are of; None
            without moments.
        z: what was kept of the forward pass; None to normalise again, which has no residual then.
        has_added: whether something was added to y; its gradient is None without moments: it is
            grad_y then.
        wants_x, wants_values: whether these gradients are needed. Where there is a norm, x's is.
    """
    geometry = (stride, padding, dilation, groups)
    if mean_y is not None and y is not None and grad_mean_y is not None and grad_var_y is not None:
        count = y.numel() // max(y.shape[1], 1)
        slope = per_channel(2 * grad_var_y / count, y)
        away = y - per_channel(mean_y, y)
        grad_y = batch_last(grad_y + per_channel(grad_mean_y / count, y) + away * slope)
    if z is None:
        z = x
        if mean is not None and var is not None:
            z = normalise(x, None, mean, var, norm_weight, norm_bias, eps, relu)
    grad_values = None
    if wants_values:
        grad_values = sparse_conv2d_weight_grad(grad_y, z, pattern, *geometry)
    grad_added = grad_y if has_added and mean_y is not None else None
    if not wants_x:
        return Gradients(None, None, None, None, None, None, grad_values, grad_added)
    grad_x = sparse_conv2d_input_grad(grad_y, x.shape, values, pattern, *geometry)
    if grad_z is not None:
        grad_x = batch_last(grad_x + grad_z)
    of_norm: list[Tensor | None] = [None] * 5
    if mean is not None and var is not None:
        grad_x, *of_norm = normalise_backward(
            grad_x, z, x, mean, var, norm_weight, norm_bias, eps, relu, has_residual
        )
    if grad_skip is not None:
        grad_x = batch_last(grad_x + grad_skip)
    return Gradients._make((grad_x, *of_norm, grad_values, grad_added))
