"""A linear layer by the weights that remain, and its gradients, with Numba.

Operands as in `kernels/reference/sparse_linear.py`, float32 on the CPU: the 1x1 convolution of
images of one pixel, whose batch-last layout is that of rows. The reference serves other dtypes.
"""

from __future__ import annotations

from gemkern.kernels import reference
from gemkern.kernels.cpu.machine.serving import float32_or
from gemkern.kernels.cpu.sparse_conv2d import (
    sparse_conv2d,
    sparse_conv2d_input_grad,
    sparse_conv2d_weight_grad,
)
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

GEOMETRY = Geometry()


@float32_or(reference.sparse_linear)
def sparse_linear(x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return y, x times the remaining weights, plus bias [Ko], batch-last."""
    return sparse_conv2d(_pixels(x), values, _taps(pattern), bias, GEOMETRY)[:, :, 0, 0]


@float32_or(reference.sparse_linear_input_grad)
def sparse_linear_input_grad(grad_y: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
    """Return dL/dx [N, Ki], batch-last, from dL/dy."""
    size = (grad_y.shape[0], pattern.shape[1], 1, 1)
    grad_x = sparse_conv2d_input_grad(_pixels(grad_y), size, values, _taps(pattern), GEOMETRY)
    return grad_x[:, :, 0, 0]


@float32_or(reference.sparse_linear_weight_grad)
def sparse_linear_weight_grad(grad_y: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    return sparse_conv2d_weight_grad(_pixels(grad_y), _pixels(x), _taps(pattern), GEOMETRY)


def _pixels(rows: Tensor) -> Tensor:
    """Return rows [N, K] as images [N, K, 1, 1] of one pixel."""
    return batch_last(rows)[:, :, None, None]


def _taps(pattern: Pattern) -> Pattern:
    """Return the pattern of a matrix as that of a 1x1 convolution."""
    return pattern._replace(shape=(*pattern.shape, 1, 1))
