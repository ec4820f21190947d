"""Batch norm, a residual and ReLU in one operator, in the batch-last layout.

Ioffe and Szegedy, "Batch Normalization" (ICML 2015), Algorithms 1 and 2; the order norm, residual,
ReLU is that of He et al., "Deep Residual Learning" (CVPR 2016), figure 2.
"""

from __future__ import annotations

import torch
from gemkern.kernels.reference.batch_last import batch_last
from torch import Tensor


def batch_norm_relu(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return relu(norm(x) + residual), and by what x was normalised.

    Args:
        x: [N, C, ...], any float dtype; float16 and bfloat16 are worked on in float32.
        residual: shaped as x, or None.
        weight, bias: [C], or None for 1 and 0.
        running_mean, running_var: [C], or None while training. Training moves them by `momentum`
            towards the mean and the unbiased variance of the batch, in place; else they are read.
        training: whether the statistics are those of the batch. An empty batch has none, and moves
            nothing; one value for a channel counts as an unbiased variance of 0.
        eps: added to the variance.
        relu: whether negative results become 0.

    Returns:
        y: as x, batch-last.
        mean, invstd: [C], the mean and 1 / sqrt(var + eps) that were used.
    """
    wide = batch_last(x).to(torch.promote_types(x.dtype, torch.float32))
    if training:
        mean = wide.mean(_all_but_channels(x))
        var = (wide - _per_channel(mean, x)).square().mean(_all_but_channels(x))
        if x.numel():
            _move(running_mean, mean, momentum)
            _move(running_var, var * _bessel(x), momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = running_mean.to(wide.dtype, copy=True), running_var.to(wide.dtype)
    invstd = (var + eps).rsqrt()
    y = _affine(wide, mean, invstd, weight, bias)
    if residual is not None:
        y = y + residual
    return batch_last((y.relu() if relu else y).to(x.dtype)), mean, invstd


def batch_norm_relu_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    relu: bool,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of `batch_norm_relu` to x, residual, weight and bias.

    What the ReLU let through is read from y where there was a residual; else it is computed from x
    again, and y need not be kept: 4 bytes less to read for each float32 of the activation, of 8.

    Args:
        grad_y: dL/dy, shaped as x.
        y: the result, needed with both a residual and a ReLU; else it is not read.
        mean, invstd: what `batch_norm_relu` returned; training, relu, weight, bias: as given to it.
        has_residual: whether it had one.

    Returns:
        grad_x: as x, batch-last.
        grad_residual: as grad_x; None without a residual, and without a ReLU: it is grad_y then.
        grad_weight, grad_bias: [C], None for a weight or bias that is None.
    """
    axes = _all_but_channels(x)
    wide = batch_last(x).to(mean.dtype)
    g = batch_last(grad_y).to(mean.dtype)
    if relu:
        passed = y if has_residual else _affine(wide, mean, invstd, weight, bias)
        assert passed is not None
        # Not `passed > 0`: the gradient of a NaN passes, as in PyTorch.
        g = g.masked_fill(passed <= 0, 0)
    x_hat = (wide - _per_channel(mean, x)) * _per_channel(invstd, x)
    sum_g, sum_gx = g.sum(axes), (g * x_hat).sum(axes)
    grad_x = g
    if training:
        count = max(_count(x), 1)
        grad_x = g - _per_channel(sum_g / count, x) - x_hat * _per_channel(sum_gx / count, x)
    scale = invstd if weight is None else invstd * weight
    return (
        batch_last((grad_x * _per_channel(scale, x)).to(x.dtype)),
        batch_last(g.to(x.dtype)) if relu and has_residual else None,
        None if weight is None else sum_gx.to(weight.dtype),
        None if bias is None else sum_g.to(bias.dtype),
    )


def _affine(
    x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    scale = invstd if weight is None else invstd * weight
    y = (x - _per_channel(mean, x)) * _per_channel(scale, x)
    return y if bias is None else y + _per_channel(bias, x)


def _count(x: Tensor) -> int:
    """Return how many values a channel has."""
    return x.numel() // max(x.shape[1], 1)


def _bessel(x: Tensor) -> float:
    """Return what turns the variance of a channel into the unbiased one."""
    return _count(x) / max(_count(x) - 1, 1)


def _move(running: Tensor | None, batch: Tensor, momentum: float) -> None:
    if running is not None:
        running.mul_(1 - momentum).add_(batch * momentum)


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
