"""Kernels are written for float32: the reference serves the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

Kernel = Callable[..., Any]
_HOLD_NO_FLOATS = frozenset(
    (type(None), bool, int, float, tuple, list, torch.Size, Geometry, Pattern)
)


def float32_or(reference: Kernel) -> Callable[[Kernel], Kernel]:
    """Let `reference` serve a kernel's operands where a tensor is of another float dtype.

    So it does where what is per channel or per weight is not one stretch of memory.
    """

    def decorate(kernel: Kernel) -> Kernel:
        @wraps(kernel)
        def run(*operands: Any) -> Any:
            return (kernel if _served(operands) else reference)(*operands)

        return run

    return decorate


def _served(operands: tuple[Any, ...]) -> bool:
    # Every step asks this of every layer: by types, whose look-up is quick.
    for operand in operands:
        kind = type(operand)
        if kind in _HOLD_NO_FLOATS:
            continue
        if kind is Norm or kind is NormSparse:
            if not _served(operand):
                return False
        elif (operand.dtype != torch.float32 and operand.is_floating_point()) or (
            operand.dim() < 2 and not operand.is_contiguous()
        ):
            return False
    return True


def address(tensor: Tensor | None) -> int:
    """Return where a tensor lies, 0 if there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def gradients_of(*operands: Tensor | None) -> list[Tensor | None]:
    """Return room for the gradient of each operand that is there."""
    return [None if operand is None else torch.empty_like(operand) for operand in operands]
