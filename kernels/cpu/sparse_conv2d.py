"""A two-dimensional convolution by the weights that remain, and its gradients, with Numba.

Operands as in `kernels/reference/sparse_conv2d.py`, float32 on the CPU; the reference serves other
dtypes. They are `norm_sparse_conv2d` without a norm. Results do not depend on the number of
threads, which is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemkern.kernels import reference
from gemkern.kernels.cpu.norm_sparse_conv2d import (
    norm_sparse_conv2d,
    norm_sparse_conv2d_backward,
)
from gemkern.kernels.cpu.serving import float32_or
from gemkern.kernels.reference.norm_sparse_conv2d import Gradients
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

Pair = Sequence[int]
# Neither a norm (eps, relu) nor a kept input nor moments.
PLAIN = (0.0, False, False, False)


@float32_or(reference.sparse_conv2d)
def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return y, the convolution of x with the remaining weights, plus bias [Co], batch-last."""
    geometry = (stride, padding, dilation, groups)
    return norm_sparse_conv2d(
        x, None, None, None, None, None, values, pattern, bias, None, *PLAIN, *geometry
    )[0]


@float32_or(reference.sparse_conv2d_input_grad)
def sparse_conv2d_input_grad(
    grad_y: Tensor,
    input_size: Sequence[int],
    values: Tensor,
    pattern: Pattern,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return dL/dx of shape `input_size`, batch-last, from dL/dy."""
    # Of x nothing but its shape is read.
    x = grad_y.new_empty(()).expand(tuple(input_size))
    grad_x = _backward(grad_y, x, values, pattern, True, (stride, padding, dilation, groups)).x
    assert grad_x is not None
    return grad_x


@float32_or(reference.sparse_conv2d_weight_grad)
def sparse_conv2d_weight_grad(
    grad_y: Tensor,
    x: Tensor,
    pattern: Pattern,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    values = x.new_zeros(len(pattern.positions))
    geometry = (stride, padding, dilation, groups)
    grad_values = _backward(grad_y, x, values, pattern, False, geometry).values
    assert grad_values is not None
    return grad_values


def _backward(
    grad_y: Tensor,
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    wants_x: bool,
    geometry: tuple[Pair, Pair, Pair, int],
) -> Gradients:
    """Return the gradient of x, or that of the values."""
    return norm_sparse_conv2d_backward(
        grad_y, None, None, None, None, None, None, None, x, None, None, None, None, values,
        pattern, 0.0, False, False, False, wants_x, not wants_x, *geometry,
    )  # fmt: skip
