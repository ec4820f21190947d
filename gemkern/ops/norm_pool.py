"""A norm, ReLU and max pooling as one operator, on batch-last activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.ops.checks import check_taps, check_windows
from gemkern.ops.norm_sparse import Norm, check_statistics
from gemkern.ops.registration import SIGNATURES, differentiable, once, register

__all__ = ["normalise_max_pool2d"]

_pool = register(
    "normalise_max_pool2d",
    "(Tensor x, Norm norm, int[] kernel, int[] stride, str backend) -> (Tensor, Tensor)",
)
_pool_backward = register(
    "normalise_max_pool2d_backward",
    "(Tensor grad_y, Tensor y, Tensor taps, Tensor x, Norm norm, int[] kernel, int[] stride, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor?, Tensor?)",
)

POOL = SIGNATURES["normalise_max_pool2d"]


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
    if norm.residual is not None:
        raise GemkernError(f"{where}: the norm has a residual; use normalise, then max_pool2d")
    if any(step < size for step, size in zip(stride, kernel, strict=True)):
        raise GemkernError(
            f"{where}: windows of {tuple(kernel)} overlap with stride {tuple(stride)}; give a "
            "stride of at least the kernel, or use normalise, then max_pool2d"
        )
    return _pool(x, norm, kernel, stride, backend or "")[0]


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        operands = x, norm, *ctx.windows, ctx.backend = POOL.operands(inputs)
        with torch._C._AutoDispatchBelowAutograd():
            y, taps = _pool(*operands)
        *tensors, ctx.eps, _, ctx.relu = norm
        ctx.save_for_backward(y, taps, x, *tensors)
        ctx.mark_non_differentiable(taps)
        return y, taps

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        y, taps, x, *tensors = ctx.saved_tensors
        norm = Norm(*tensors, ctx.eps, None, ctx.relu)
        grad_x, *of_norm = _pool_backward(grad_y, y, taps, x, norm, *ctx.windows, ctx.backend)
        return POOL.gradients((grad_x, (*of_norm, None, None, None), None, None, None))


differentiable("normalise_max_pool2d", _NormPool.apply)
