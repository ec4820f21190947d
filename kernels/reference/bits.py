"""Masks as bits: eight entries a byte, the first in the least significant bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pack_mask(mask: Tensor) -> Tensor:
    """Return the bool `mask` of any shape as uint8 [ceil(n / 8)].

    Entry i in row-major order is bit i % 8, counted from the least significant, of byte i // 8;
    spare bits of the last byte are zero.
    """
    bits = mask.reshape(-1).to(torch.uint8)
    bytes_of_bits = F.pad(bits, (0, -bits.numel() % 8)).view(-1, 8)
    return (bytes_of_bits << _places(mask)).sum(1, dtype=torch.uint8)


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the bool mask of `shape` that `pack_mask` packed into the uint8 `packed`."""
    bits = (packed[:, None] >> _places(packed)) & 1
    return bits.view(-1)[: math.prod(shape)].to(torch.bool).view(tuple(shape))


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
