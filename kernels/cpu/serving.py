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
            served = all(tensor.dtype == torch.float32 for tensor in tensors)
            return (kernel if served else reference)(*operands)

        return run

    return decorate
