"""A linear layer by the weights that remain, and its gradients.

x is [N, Ki], y [N, Ko]; `pattern` says where the weights of [Ko, Ki] remain, and `values` [nnz] are
these weights, in its order.
"""

from __future__ import annotations

from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from gemkern.kernels.reference.pattern import Pattern
from gemkern.kernels.reference.sparse_conv2d import dense
from torch import Tensor
from torch.nn import functional as F


def sparse_linear(x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return y, x times the remaining weights, plus bias [Ko], contiguous."""
    return F.linear(x, dense(values, pattern), bias).contiguous()


def sparse_linear_backward(
    grad_y: Tensor,
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    wants_x: bool,
    wants_values: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return dL/dx [N, Ki] and dL/dvalues [nnz] from dL/dy, or None for what is not wanted.

    The gradient of x is contiguous, or batch-last where x lies so.
    """
    grad_x = grad_values = None
    if wants_x:
        grad_x = (grad_y @ dense(values, pattern)).contiguous()
        if not x.is_contiguous() and is_batch_last(x):
            grad_x = batch_last(grad_x)
    if wants_values:
        grad_values = (grad_y.T @ x).flatten()[pattern.positions]
    return grad_x, grad_values
