"""What kernels of one dtype do with the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., Tensor]


def float32_or(reference: Kernel) -> Callable[[Kernel], Kernel]:
    """Let `reference` serve the operands of a kernel that are not all float32."""

    def decorate(kernel: Kernel) -> Kernel:
        @wraps(kernel)
        def run(*operands: Any) -> Tensor:
            tensors = (operand for operand in operands if isinstance(operand, Tensor))
            alike = all(tensor.dtype == torch.float32 for tensor in tensors)
            return (kernel if alike else reference)(*operands)

        return run

    return decorate


def served(x: Tensor, *others: Tensor | None) -> bool:
    """Return whether all are float32, and what is per channel is one run of memory."""
    if x.dtype != torch.float32:
        return False
    # Every step asks this of every layer, and a generator takes twice as long.
    for other in others:
        if other is not None and (
            other.dtype != torch.float32 or (other.dim() < 2 and not other.is_contiguous())
        ):
            return False
    return True


def address(tensor: Tensor | None) -> int:
    """Return where a tensor lies, 0 if there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def gradients_of(*operands: Tensor | None) -> list[Tensor | None]:
    """Return room for the gradient of each operand that is there."""
    return [None if operand is None else torch.empty_like(operand) for operand in operands]
