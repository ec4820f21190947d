"""The batch-last layout: the batch is the innermost dimension in memory.

A tensor [N, C, H, W] has the strides (1, H * W * N, W * N, N), one [N, K] the strides (1, N). A tap
of a sparse convolution is then a multiple of one contiguous, aligned run of N numbers added to
another, with no halo in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_batch_last(x: Tensor) -> bool:
    """Return whether x [N, ...] lies batch-last; strides of dimensions of size 1 do not count."""
    return x.movedim(0, -1).is_contiguous()


def batch_last(x: Tensor) -> Tensor:
    """Return x [N, ...] itself if it lies batch-last, else a copy that does."""
    return x if is_batch_last(x) else empty_batch_last(x.shape, x).copy_(x)


def contiguous(x: Tensor) -> Tensor:
    """Return x [N, ...] itself if it is contiguous, else a copy that is."""
    return x.contiguous()


def empty_batch_last(size: Sequence[int], like: Tensor) -> Tensor:
    """Return a batch-last tensor of `size` with no values, in the dtype and place of `like`.

    It is no view: what an autograd function returns may then be changed in place.
    """
    if 0 in size:
        return like.new_empty(tuple(size))
    batch, *rest = size
    strides, step = [1], batch
    for length in reversed(rest):
        strides.insert(1, step)
        step = step * length
    return torch.empty_strided(tuple(size), strides, dtype=like.dtype, device=like.device)
