"""A two-dimensional convolution under a mask, and its gradients, in Triton.

Named and called as `gemkern.kernels.reference.masked_conv2d`, for float32, float16 and bfloat16.
Sums are taken in float32 and rounded once. The gradient of the weight is in its memory order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.gpu.conv2d_filters import filter_grad, filter_sums
from gemkern.kernels.gpu.conv2d_images import convolve
from gemkern.kernels.gpu.conv2d_tiles import images_like
from gemkern.kernels.gpu.conv2d_walk import Pair, input_walk, output_walk
from gemkern.kernels.gpu.depthwise_conv2d import depthwise_convolve, depthwise_sums
from gemkern.kernels.layouts import dense, empty_as, ordered_as
from torch import Tensor

# Weights are counted in int32, with room for the rest of a tile beyond the last.
MOST_WEIGHTS = 2**31 - 2**28


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    _refuse_float64(x, weight)
    walk = output_walk(x.shape, weight.shape[2:], stride, padding, dilation)
    y = images_like((x.shape[0], weight.shape[0], walk.height.out, walk.width.out), x)
    masked = _masked(weight, scores, active)
    bias = None if bias is None else bias.contiguous()
    write = depthwise_convolve if _is_depthwise(weight, groups) else convolve
    write(x, *masked, bias, y, walk, groups, backward=False)
    return y


def masked_conv2d_input_grad(
    grad_y: Tensor,
    input_size: Sequence[int],
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    _refuse_float64(grad_y, weight)
    walk = input_walk(input_size, grad_y.shape, weight.shape[2:], stride, padding, dilation)
    grad_x = images_like(input_size, grad_y)
    masked = _masked(weight, scores, active)
    write = depthwise_convolve if _is_depthwise(weight, groups) else convolve
    write(grad_y, *masked, None, grad_x, walk, groups, backward=True)
    return grad_x


def masked_conv2d_weight_grad(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    weight, scores, active = _masked(weight, scores, active)
    sums = _sums(grad_y, x, weight, stride, padding, dilation, groups)
    grad = empty_as(weight, weight.dtype)
    filter_grad(sums, weight, scores, active, grad, straight=False)
    return grad


def masked_conv2d_score_grad(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    active: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    weight, _, active = _masked(weight, None, active)
    sums = _sums(grad_y, x, weight, stride, padding, dilation, groups)
    grad = empty_as(weight, torch.float32)
    filter_grad(sums, weight, None, active, grad, straight=True)
    return grad


def _sums(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    _refuse_float64(x, weight)
    walk = output_walk(x.shape, weight.shape[2:], stride, padding, dilation)
    add = depthwise_sums if _is_depthwise(weight, groups) else filter_sums
    return add(grad_y, x, weight, walk, groups)


def _masked(
    weight: Tensor, scores: Tensor | None, active: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return all three dense and in the memory order of the weight: one offset finds each."""
    if weight.numel() > MOST_WEIGHTS:
        raise NotImplementedError(
            f"these kernels count at most {MOST_WEIGHTS} weights and there are {weight.numel()}"
        )
    weight = dense(weight)
    scores = None if scores is None else ordered_as(scores, weight)
    return weight, scores, ordered_as(active, weight)


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    return weight.shape[1] == 1 and groups > 1


def _refuse_float64(images: Tensor, weight: Tensor) -> None:
    if torch.float64 in (images.dtype, weight.dtype):
        raise NotImplementedError("these kernels add in float32 and take no float64 operands")
