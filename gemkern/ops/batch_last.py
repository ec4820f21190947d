"""Batch norm with what follows it, pooling, and a shortcut, on batch-last activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.ops.checks import (
    LARGEST_STEP,
    check_changed,
    check_images,
    check_norm,
    check_taps,
    check_windows,
    pair,
)
from gemkern.ops.registration import differentiable, differentiate, once, register

__all__ = [
    "average_pool2d",
    "batch_norm_relu",
    "max_pool2d",
    "padded_shortcut",
]

_NORM = "bool training, float momentum, float eps, bool relu, str backend"

_norm = register(
    "batch_norm_relu",
    "(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    f"Tensor(b!)? running_var, {_NORM}) -> (Tensor, Tensor, Tensor)",
)
_norm_backward = register(
    "batch_norm_relu_backward",
    "(Tensor grad_y, Tensor x, Tensor? y, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor invstd, bool training, bool relu, bool has_residual, str backend) -> "
    "(Tensor, Tensor?, Tensor?, Tensor?)",
)
register(
    "average_pool2d",
    "(Tensor x, int[] kernel, int[] stride, int[] padding, bool count_include_pad, str backend) "
    "-> Tensor",
)
_average_backward = register(
    "average_pool2d_backward",
    "(Tensor grad_y, SymInt[] shape, int[] kernel, int[] stride, int[] padding, "
    "bool count_include_pad, str backend) -> Tensor",
)
_max = register(
    "max_pool2d",
    "(Tensor x, int[] kernel, int[] stride, int[] padding, str backend) -> (Tensor, Tensor)",
)
_max_backward = register(
    "max_pool2d_backward",
    "(Tensor grad_y, Tensor taps, SymInt[] shape, int[] kernel, int[] stride, int[] padding, "
    "str backend) -> Tensor",
)
register(
    "padded_shortcut",
    "(Tensor x, int[] stride, int before, int after, str backend) -> Tensor",
)
_shortcut_backward = register(
    "padded_shortcut_backward",
    "(Tensor grad_y, SymInt[] shape, int[] stride, int before, str backend) -> Tensor",
)


def batch_norm_relu(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Return relu(batch_norm(x) + residual), batch-last.

    Args:
        x: [N, C, ...], fastest batch-last.
        residual: shaped as x, or None.
        weight, bias: [C], or None for 1 and 0.
        running_mean, running_var: [C]; training moves them as `nn.BatchNorm2d` does, in place;
            evaluation reads them. None while training for neither.
        training: whether the statistics are those of the batch.
        momentum, eps: as in `nn.BatchNorm2d`.
        relu: whether negative results become 0.

    Raises:
        GemkernError: shapes or dtypes do not fit, or no backend can serve; in a second derivative.
    """
    named = {
        "weight": weight,
        "bias": bias,
        "running_mean": running_mean,
        "running_var": running_var,
    }
    check_norm("batch_norm_relu", x, residual, named)
    for name in ("running_mean", "running_var"):
        moved = named[name]
        if training and moved is not None:
            check_changed("batch_norm_relu", name, moved)
    if not training and (running_mean is None or running_var is None):
        raise GemkernError(
            "batch_norm_relu: evaluation needs running statistics; give both, or train"
        )
    if training and x.numel() == x.shape[1]:
        raise GemkernError(
            f"batch_norm_relu: x has shape {tuple(x.shape)}, one value for each channel, and no "
            "variance to train with; give a larger batch"
        )
    y, _, _ = _norm(
        x,
        residual,
        *named.values(),
        training,
        momentum,
        eps,
        relu,
        backend or "",
    )
    return y


def average_pool2d(
    x: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    count_include_pad: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Return the mean of each window, [N, C, H', W'], batch-last; as `F.avg_pool2d`.

    Args:
        x: [N, C, H, W], fastest batch-last.
        kernel, stride, padding: an int or a pair, in pixels; a stride of None is the kernel.
        count_include_pad: whether what is padded counts as zeros, or not at all.

    Raises:
        GemkernError: shapes do not fit, or no backend can serve; in a second derivative.
    """
    geometry = check_windows("average_pool2d", x, kernel, stride, padding)
    return _average(x, *geometry, count_include_pad, backend or "")


def max_pool2d(
    x: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    backend: str | None = None,
) -> Tensor:
    """Return the maximum of each window, [N, C, H', W'], batch-last; as `F.max_pool2d`.

    Args:
        x: [N, C, H, W], fastest batch-last.
        kernel, stride, padding: an int or a pair, in pixels; a stride of None is the kernel.

    Raises:
        GemkernError: shapes do not fit, a window has more than 256 pixels, or no backend can serve;
            in a second derivative.
    """
    geometry = check_windows("max_pool2d", x, kernel, stride, padding)
    check_taps("max_pool2d", geometry[0])
    return _max(x, *geometry, backend or "")[0]


def padded_shortcut(
    x: Tensor,
    stride: int | Sequence[int],
    before: int,
    after: int,
    backend: str | None = None,
) -> Tensor:
    """Return pixels of x, a stride apart, with channels of zeros around its own, batch-last.

    The shortcut of residual blocks that has no parameters (He et al., 2016, option A):
    `F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))`.

    Args:
        x: [N, C, H, W], fastest batch-last.
        stride: an int or a pair, in pixels.
        before, after: how many channels of zeros.

    Raises:
        GemkernError: x has another shape, a number is too small, or no backend can serve; in a
            second derivative.
    """
    where, stride = "padded_shortcut", pair(stride)
    check_images(where, x)
    numbers = (*stride, before, after)
    if len(stride) != 2 or min(stride) < 1 or min(numbers) < 0 or max(numbers) > LARGEST_STEP:
        raise GemkernError(
            f"{where}: stride {tuple(stride)} with {before} and {after} channels of zeros does not "
            "fit; give an int or a pair, at least 1, and at least 0 channels, "
            f"{LARGEST_STEP} of each at most"
        )
    return _shortcut(x, stride, before, after, backend or "")


def _average_setup(ctx: Any, inputs: Any) -> None:
    x, *ctx.geometry = inputs
    ctx.shape = x.shape
    ctx.save_for_backward()


def _average_gradient(ctx: Any, grad_y: Tensor) -> Any:
    grad_x = _average_backward(grad_y, ctx.shape, *ctx.geometry)
    return grad_x, *[None for _ in ctx.geometry]


_average = differentiate("average_pool2d", _average_setup, _average_gradient)


def _shortcut_setup(ctx: Any, inputs: Any) -> None:
    x, ctx.stride, ctx.before, _, ctx.backend = inputs
    ctx.shape = x.shape
    ctx.save_for_backward()


def _shortcut_gradient(ctx: Any, grad_y: Tensor) -> Any:
    grad_x = _shortcut_backward(grad_y, ctx.shape, ctx.stride, ctx.before, ctx.backend)
    return grad_x, None, None, None, None


_shortcut = differentiate("padded_shortcut", _shortcut_setup, _shortcut_gradient)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            y, taps = _max(x, *geometry)
        ctx.shape, ctx.geometry = x.shape, geometry
        ctx.save_for_backward(taps)
        ctx.mark_non_differentiable(taps)
        return y, taps

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor, _: Any) -> Any:
        (taps,) = ctx.saved_tensors
        grad_x = _max_backward(grad_y, taps, ctx.shape, *ctx.geometry)
        return grad_x, *[None for _ in ctx.geometry]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, residual, weight, bias, _, _, ctx.training, _, _, ctx.relu, ctx.backend = inputs
        with torch._C._AutoDispatchBelowAutograd():
            y, mean, invstd = _norm(*inputs)
        ctx.has_residual = residual is not None
        # Without a residual what the ReLU let through is computed again: y need not be kept.
        kept = y if ctx.relu and ctx.has_residual else None
        ctx.save_for_backward(x, kept, weight, bias, mean, invstd)
        ctx.mark_non_differentiable(mean, invstd)
        return y, mean, invstd

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor, *_: Any) -> Any:
        grad_x, grad_residual, grad_weight, grad_bias = _norm_backward(
            grad_y, *ctx.saved_tensors, ctx.training, ctx.relu, ctx.has_residual, ctx.backend
        )
        if ctx.has_residual and not ctx.relu:
            grad_residual = grad_y
        return grad_x, grad_residual, grad_weight, grad_bias, *[None] * 7


differentiable("max_pool2d", _MaxPool.apply)
differentiable("batch_norm_relu", _Norm.apply)
