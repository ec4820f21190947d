"""A norm, ReLU and max pooling as one operator, on batch-last activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.ops.checks import check_taps, check_windows
from gemkern.ops.norm_sparse import Norm, check_statistics
from gemkern.ops.registration import differentiable, once, register

__all__ = ["normalise_max_pool2d"]

_NORM = "Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, bool relu"
_WINDOWS = "int[] kernel, int[] stride, str backend"

_pool = register("normalise_max_pool2d", f"(Tensor x, {_NORM}, {_WINDOWS}) -> (Tensor, Tensor)")
_pool_backward = register(
    "normalise_max_pool2d_backward",
    f"(Tensor grad_y, Tensor y, Tensor taps, Tensor x, {_NORM}, {_WINDOWS}) -> "
    "(Tensor, Tensor, Tensor, Tensor?, Tensor?)",
)


def normalise_max_pool2d(
    x: Tensor,
    norm: Norm,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return `max_pool2d(normalise(x, norm), kernel, stride)`, batch-last.

    Args:
        x: [N, C, H, W], fastest batch-last.
        norm: without a residual.
        kernel, stride: an int or a pair, in pixels; a stride of None is the kernel.

    Raises:
        GemkernError: shapes or dtypes do not fit, there is a residual, windows overlap or have more
            than 256 pixels, or no backend can serve; in a second derivative.
    """
    where = "normalise_max_pool2d"
    check_statistics(where, x, norm)
    kernel, stride, _ = check_windows(where, x, kernel, stride, 0)
    check_taps(where, kernel)
    mean, var, weight, bias, eps, residual, relu = norm
    if residual is not None:
        raise GemkernError(f"{where}: the norm has a residual; use normalise, then max_pool2d")
    if any(step < size for step, size in zip(stride, kernel, strict=True)):
        raise GemkernError(
            f"{where}: windows of {tuple(kernel)} overlap with stride {tuple(stride)}; give a "
            "stride of at least the kernel, or use normalise, then max_pool2d"
        )
    return _pool(x, mean, var, weight, bias, eps, relu, kernel, stride, backend or "")[0]


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.eps, ctx.relu, ctx.kernel, ctx.stride, ctx.backend = inputs
        with torch._C._AutoDispatchBelowAutograd():
            y, taps = _pool(*inputs)
        ctx.save_for_backward(y, taps, *tensors)
        ctx.mark_non_differentiable(taps)
        return y, taps

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        how = (ctx.eps, ctx.relu, ctx.kernel, ctx.stride, ctx.backend)
        return *_pool_backward(grad_y, *ctx.saved_tensors, *how), *[None] * len(how)


differentiable("normalise_max_pool2d", _NormPool.apply)
