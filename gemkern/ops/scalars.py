"""Numbers that an operator reads on the device: they can change with no new graph."""

from __future__ import annotations

import torch
from torch import Tensor

from gemkern.errors import GemkernError

Scalar = float | Tensor


def on_device(where: str, name: str, value: Scalar, like: Tensor) -> Tensor:
    """Return the number called `name` as a 0-d tensor of the dtype and device of `like`.

    A tensor stays as it is.
    """
    if not isinstance(value, Tensor):
        # A fill, not a copy: the host does not wait for the device.
        return torch.full((), value, dtype=like.dtype, device=like.device)
    if value.dim() or value.device != like.device:
        raise GemkernError(
            f"{where}: {name} is {tuple(value.shape)} on {value.device}; "
            f"give a number, or a 0-d tensor on {like.device}"
        )
    return value
