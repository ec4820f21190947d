"""The batch-last layout, asked for and made in the time that a small call has.

`kernels/reference/batch_last.py` says the same of any tensor, and of sizes that are symbols.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from gemkern.kernels.reference import batch_last as reference
from torch import Tensor


@lru_cache(maxsize=4096)
def strides_of(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a batch-last tensor of `size`."""
    return reference.empty_batch_last(size, torch.empty(0, device="meta")).stride()


def batch_last(x: Tensor) -> Tensor:
    """Return x [N, ...] itself if it lies batch-last, else a copy that does."""
    return x if x.stride() == strides_of(x.shape) else reference.batch_last(x)


def batch_last_if(x: Tensor | None) -> Tensor | None:
    """Return `batch_last(x)` if there is an x."""
    return None if x is None else batch_last(x)


def empty_batch_last(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a batch-last tensor of `size` with no values, in the dtype and place of `like`."""
    return like.new_empty_strided(size, strides_of(size))
