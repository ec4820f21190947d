"""A linear layer by the weights that remain, and its gradients.

x is [N, Ki], y [N, Ko]; `pattern` says where the weights of [Ko, Ki] remain, and `values` [nnz] are
these weights, in its order. Rows come out batch-last: with the strides (1, N).
"""

from __future__ import annotations

from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.pattern import Pattern
from gemkern.kernels.reference.sparse_conv2d import dense
from torch import Tensor
from torch.nn import functional as F


def sparse_linear(x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return y, x times the remaining weights, plus bias [Ko], batch-last."""
    return batch_last(F.linear(x, dense(values, pattern), bias))


def sparse_linear_input_grad(grad_y: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
    """Return dL/dx [N, Ki], batch-last, from dL/dy."""
    return batch_last(grad_y @ dense(values, pattern))


def sparse_linear_weight_grad(grad_y: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    return (grad_y.T @ x).flatten()[pattern.positions]
