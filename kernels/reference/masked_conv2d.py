"""A two-dimensional convolution under a mask, and its gradients.

x is [N, Ci, H, W], weight [Co, Ci / groups, kh, kw]; scores (or None) and active (bool) are shaped
as the weight; stride, padding and dilation are pairs. The effective weight is cast to the dtype of
x, or of the gradient, before it is used. Straight-through: Rare Gems (NeurIPS 2022), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.geometry import Geometry, output_image
from gemkern.kernels.reference.straight_through import product
from gemkern.kernels.reference.threshold import mask_of, select
from torch import Tensor
from torch.nn import functional as F

Pair = Sequence[int]


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
    """Return the convolution of x with where(mask, weight, 0), plus bias, in the dtype of x."""
    effective = select(weight, mask_of(scores, active)).to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    return convolve(x, effective, bias, Geometry(stride, padding, dilation, groups))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Return PyTorch's convolution, and where that has no output channels without inputs, these."""
    if 0 not in weight.shape[:2]:
        return F.conv2d(x, weight, bias, *geometry)
    image = output_image(x.shape[2:], weight.shape[2:], *geometry[:3])
    y = x.new_zeros(x.shape[0], weight.shape[0], *image)
    return y if bias is None else y + bias.view(-1, 1, 1)


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
    """Return dL/dx, of shape `input_size`, in the dtype and memory format of grad_y."""
    effective = select(weight, mask_of(scores, active)).to(grad_y.dtype)
    x = _unwritten(input_size, grad_y)
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    return _backward(grad_y, x, effective, geometry, wanted=0)


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
    """Return dL/dw_eff where the mask is on and 0 elsewhere, in the dtype of the weight."""
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    effective_grad = _backward(grad_y, x, weight.to(x.dtype), geometry, wanted=1)
    return select(effective_grad, mask_of(scores, active)).to(weight.dtype)


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
    """Return dL/dw_eff * weight where active and 0 elsewhere: the straight-through gradient.

    The product is taken and returned in float32, or in float64 for a float64 weight.
    """
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    effective_grad = _backward(grad_y, x, weight.to(x.dtype), geometry, wanted=1)
    return product(effective_grad, weight, active)


def _unwritten(size: Sequence[int], like: Tensor) -> Tensor:
    """Return a tensor of `size` with no values, in the memory format of `like`."""
    only_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if only_last else torch.contiguous_format
    return torch.empty(tuple(size), dtype=like.dtype, device=like.device, memory_format=layout)


def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, geometry: tuple, wanted: int) -> Tensor:
    """Return the gradient of x (wanted=0) or of the weight (1), whose values do not count."""
    if 0 in weight.shape[:2]:
        return torch.zeros_like((x, weight)[wanted])
    outputs = [wanted == 0, wanted == 1, False]
    return torch.ops.aten.convolution_backward(grad_y, x, weight, None, *geometry, outputs)[wanted]
