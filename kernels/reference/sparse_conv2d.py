"""A two-dimensional convolution by the weights that remain, and its gradients.

x is [N, Ci, H, W], its output y [N, Co, H', W']; `pattern` says where the weights of
[Co, Ci / groups, kh, kw] remain, and `values` [nnz] are these weights, in its order.
Tensors of images come out batch-last. Direct sparse convolution:
Park et al., Faster CNNs with Direct Sparse Convolutions and Guided Pruning (ICLR 2017), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.masked_conv2d import convolve
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor
from torch.nn import functional as F


def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return y, the convolution of x with the remaining weights, plus bias [Co], batch-last."""
    stride, padding, *rest = geometry
    height, width = padding
    # Written out, what is padded counts as zeros in every dtype: infinite times 0 is NaN.
    x = F.pad(x, (width, width, height, height))
    unpadded = Geometry(stride, (0, 0), *rest)
    return batch_last(convolve(x, dense(values, pattern), bias, unpadded))


def sparse_conv2d_input_grad(
    grad_y: Tensor,
    input_size: Sequence[int],
    values: Tensor,
    pattern: Pattern,
    geometry: Geometry,
) -> Tensor:
    """Return dL/dx of shape `input_size`, batch-last, from dL/dy."""
    x = grad_y.new_empty(tuple(input_size))
    weight = dense(values, pattern)
    return batch_last(_backward(grad_y, x, weight, geometry, wanted=0))


def sparse_conv2d_weight_grad(
    grad_y: Tensor,
    x: Tensor,
    pattern: Pattern,
    geometry: Geometry,
) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    weight = x.new_empty(pattern.shape)
    return _backward(grad_y, x, weight, geometry, wanted=1).flatten()[pattern.positions]


def dense(values: Tensor, pattern: Pattern) -> Tensor:
    """Return the weight: `values` where they belong, 0 elsewhere."""
    flat = values.new_zeros(pattern.shape).flatten()
    return flat.index_put((pattern.positions,), values).view(pattern.shape)


def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: int) -> Tensor:
    """Return the gradient of x (wanted=0) or of the weight (1), whose values do not count."""
    if 0 in weight.shape[:2]:
        return torch.zeros_like((x, weight)[wanted])
    *walk, groups = geometry
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, *walk, False, (0, 0), groups, [wanted == 0, wanted == 1, False]
    )[wanted]
