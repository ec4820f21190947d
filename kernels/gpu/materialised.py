"""Masked layers by way of their effective weight: one Triton launch, then PyTorch's own product.

Named and called as in `gemkern.kernels.reference`. The effective weight is written in the dtype and
memory format that cuBLAS or cuDNN computes in; gradients are masked in one launch after theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.gpu.straight_through import straight_through
from gemkern.kernels.gpu.threshold import effective_weight
from torch import Tensor
from torch.nn import functional as F

Pair = Sequence[int]
KEEP = torch.preserve_format


def masked_linear(
    x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor, bias: Tensor | None
) -> Tensor:
    return F.linear(x, _effective(weight, scores, active, x), _cast(bias, x))


def masked_linear_input_grad(
    grad_y: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    return grad_y @ _effective(weight, scores, active, grad_y)


def masked_linear_weight_grad(
    grad_y: Tensor, x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    return _masked(_linear_weight_grad(grad_y, x), weight, scores, active)


def masked_linear_score_grad(grad_y: Tensor, x: Tensor, weight: Tensor, active: Tensor) -> Tensor:
    return straight_through([_linear_weight_grad(grad_y, x)], [weight], [active])[0]


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
    effective = _effective(weight, scores, active, x)
    return F.conv2d(x, effective, _cast(bias, x), stride, padding, dilation, groups)


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
    effective = _effective(weight, scores, active, grad_y)
    x = torch.empty(
        tuple(input_size),
        dtype=grad_y.dtype,
        device=grad_y.device,
        memory_format=_layout(grad_y),
    )
    return _conv2d_backward(grad_y, x, effective, (stride, padding, dilation), groups, wanted=0)


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
    grad = _conv2d_weight_grad(grad_y, x, weight, (stride, padding, dilation), groups)
    return _masked(grad, weight, scores, active)


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
    grad = _conv2d_weight_grad(grad_y, x, weight, (stride, padding, dilation), groups)
    return straight_through([grad], [weight], [active])[0]


def _effective(weight: Tensor, scores: Tensor | None, active: Tensor, x: Tensor) -> Tensor:
    """Return the effective weight in the dtype and, for images, the memory format of `x`."""
    given = None if scores is None else [scores]
    layout = _layout(x) if x.dim() == 4 and _layout(x) == torch.channels_last else KEEP
    return effective_weight([weight], given, [active], dtype=x.dtype, memory_format=layout)[0]


def _masked(grad: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor) -> Tensor:
    """Return `grad` where the mask is on and 0 elsewhere, in the dtype of the weight."""
    given = None if scores is None else [scores]
    return effective_weight([grad], given, [active], dtype=weight.dtype)[0]


def _linear_weight_grad(grad_y: Tensor, x: Tensor) -> Tensor:
    return grad_y.flatten(0, -2).T @ x.flatten(0, -2) if x.dim() > 1 else torch.outer(grad_y, x)


def _conv2d_weight_grad(
    grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Sequence[Pair], groups: int
) -> Tensor:
    # The values of the weight do not count.
    unread = torch.empty_like(weight, dtype=x.dtype)
    return _conv2d_backward(grad_y, x, unread, geometry, groups, wanted=1)


def _conv2d_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Sequence[Pair], groups: int, wanted: int
) -> Tensor:
    outputs = [wanted == 0, wanted == 1, False]
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, *geometry, False, (0, 0), groups, outputs
    )[wanted]


def _cast(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


def _layout(images: Tensor) -> torch.memory_format:
    """Return channels_last where that, and not contiguous, is the memory format of `images`."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
