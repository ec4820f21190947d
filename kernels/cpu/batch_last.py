"""Changes of layout, between PyTorch's and batch-last, with Numba.

A tensor [N, ...] is a matrix of N rows; batch-last it is the matrix turned over.
"""

from __future__ import annotations

import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.engines.turning import turn_over
from gemkern.kernels.cpu.machine.layout import empty_batch_last, strides_of
from gemkern.kernels.cpu.machine.streaming import streams_rows
from gemkern.kernels.cpu.machine.threads import start_threads
from torch import Tensor

# Numbers below which PyTorch has copied before our threads begin.
FEW = 2**13


def batch_last(x: Tensor) -> Tensor:
    """Return x [N, ...] itself if it lies batch-last, else a copy that does."""
    if x.stride() == strides_of(x.shape):
        return x
    if x.dtype != torch.float32 or x.numel() < FEW or not x.is_contiguous():
        return reference.batch_last(x)
    target = empty_batch_last(x.shape, x)
    _turn_over(x, target, x.shape[0])
    return target


def batch_last_if(x: Tensor | None) -> Tensor | None:
    """Return `batch_last(x)` if there is an x."""
    return None if x is None else batch_last(x)


def contiguous(x: Tensor) -> Tensor:
    """Return x [N, ...] itself if it is contiguous, else a copy that is."""
    if x.is_contiguous():
        return x
    if x.dtype != torch.float32 or x.numel() < FEW or x.stride() != strides_of(x.shape):
        return x.contiguous()
    target = x.new_empty(x.shape)
    _turn_over(x, target, x.numel() // x.shape[0])
    return target


def _turn_over(source: Tensor, target: Tensor, rows: int) -> None:
    """Write a matrix of so many rows into `target`, turned over."""
    columns = source.numel() // rows
    turn_over(
        start_threads(), source.data_ptr(), rows, columns, target.data_ptr(),
        streams_rows(target, rows),
    )  # fmt: skip
