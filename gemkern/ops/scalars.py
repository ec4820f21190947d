"""Numbers that an operator reads on the device: they can change with no new graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.kernels.kept import number
from gemkern.numbers import shown
from gemkern.ops.checks import FLOATS

Scalar = float | Tensor
# Of a whole number that float32 holds.
LARGEST_BITS = 127


def on_device(where: str, name: str, value: Scalar, like: Tensor) -> Tensor:
    """Return the number called `name` as a 0-d tensor on the device of `like`, of its float dtype.

    A tensor stays as it is. Another number is made once, for reading alone, unless it is traced.
    """
    if not isinstance(value, Tensor):
        if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            raise GemkernError(f"{where}: {name} is {shown(value)}; give one that a float can hold")
        dtype = like.dtype if like.is_floating_point() else torch.float32
        if _is_traced(like):
            return torch.full((), value, dtype=dtype, device=like.device)
        return number(value, dtype, like.device)
    if value.dim() or value.device != like.device:
        raise GemkernError(
            f"{where}: {name} is {tuple(value.shape)} on {value.device}; "
            f"give a number, or a 0-d tensor on {like.device}"
        )
    if value.dtype not in FLOATS and (value.is_floating_point() or value.is_complex()):
        raise GemkernError(f"{where}: {name} is {value.dtype}; give a real number")
    return value


def _is_traced(like: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or type(like) not in (Tensor, nn.Parameter)
    )
