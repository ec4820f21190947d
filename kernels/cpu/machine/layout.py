"""Room in the batch-last layout, made in the time that a small call has.

`kernels/reference/batch_last.py` says the same of any tensor, and of sizes that are symbols.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from gemkern.kernels.cpu.machine.lanes import BYTES, LINE
from gemkern.kernels.reference.batch_last import empty_batch_last as empty_of_any_size
from torch import Tensor

# Numbers from which a tensor lies in plain memory.
PLAIN_FROM = 2**14


@lru_cache(maxsize=4096)
def strides_of(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a batch-last tensor of `size`."""
    return empty_of_any_size(size, torch.empty(0, device="meta")).stride()


def empty_batch_last(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a batch-last tensor of `size` with no values, in the dtype and place of `like`.

    A large one lies in plain memory. PyTorch asks for aligned memory, and beside each such block
    glibc leaves splinters: what takes a splinter keeps the block, once freed, from as large a
    tensor, and a training step needs up to twice the memory.
    """
    count, strides = _place_of(size)
    if like.dtype != torch.float32 or count < PLAIN_FROM:
        return like.new_empty_strided(size, strides_of(size))
    memory = np.empty(count + LINE // BYTES, np.float32)
    # A tensor tells its address in half the time that an array takes.
    aligned = -torch.from_numpy(memory).data_ptr() % LINE
    return torch.from_numpy(np.ndarray(size, np.float32, memory, aligned, strides))


@lru_cache(maxsize=4096)
def _place_of(size: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return how many numbers a batch-last tensor of `size` has, and its strides in bytes."""
    return math.prod(size), tuple(BYTES * stride for stride in strides_of(size))
