"""What kernels of one dtype do with the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
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
    return x.dtype == torch.float32 and all(
        other is None
        or (other.dtype == torch.float32 and (other.dim() > 1 or other.is_contiguous()))
        for other in others
    )


def address(tensor: Tensor | None) -> int:
    """Return where a tensor lies, 0 if there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def apart(rows: np.ndarray) -> list[Tensor]:
    """Return each row as a tensor: an operator's results may not share memory."""
    return [torch.from_numpy(row.copy()) for row in rows]
