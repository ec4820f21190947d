"""The two layouts of activations, PyTorch's and batch-last, and the ways between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.reference.batch_last import is_batch_last as lies_batch_last
from gemkern.ops.registration import Operator, differentiable, register

__all__ = ["batch_last", "contiguous", "is_batch_last"]

_batch_last = register("batch_last", "(Tensor x, str backend) -> Tensor")
_contiguous = register("contiguous", "(Tensor x, str backend) -> Tensor")


def is_batch_last(x: Tensor) -> bool:
    """Return whether x [N, ...] lies batch-last; strides of dimensions of size 1 do not count.

    Raises:
        GemkernError: x has no dimension.
    """
    return lies_batch_last(_batch("is_batch_last", x))


def batch_last(x: Tensor, backend: str | None = None) -> Tensor:
    """Return x [N, ...] itself if it lies batch-last, else a copy that does.

    The gradient of a copy is contiguous.

    Raises:
        GemkernError: x has no dimension, or no backend can serve.
    """
    return x if lies_batch_last(_batch("batch_last", x)) else _batch_last(x, backend or "")


def contiguous(x: Tensor, backend: str | None = None) -> Tensor:
    """Return x [N, ...] itself if it is contiguous, else a copy that is.

    The gradient of a copy lies batch-last.

    Raises:
        GemkernError: no backend can serve.
    """
    return x if x.is_contiguous() else _contiguous(x, backend or "")


def _batch(where: str, x: Tensor) -> Tensor:
    if x.dim() == 0:
        raise GemkernError(f"{where}: x has no dimension; give a batch, (batch, ...)")
    return x


def _with_gradient(there: Operator, back: Callable[[Tensor, str], Tensor]) -> Operator:
    """Return the change of layout `there`, whose gradient goes `back`."""

    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, backend: str) -> Tensor:
            ctx.backend = backend
            with torch._C._AutoDispatchBelowAutograd():
                return there(x, backend)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return back(grad, ctx.backend), None

    return Turned.apply


differentiable("batch_last", _with_gradient(_batch_last, contiguous))
differentiable("contiguous", _with_gradient(_contiguous, batch_last))
