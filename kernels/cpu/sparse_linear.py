"""A linear layer by the weights that remain, and its gradients, with Numba.

Operands as in `kernels/reference/sparse_linear.py`, float32 on the CPU; the reference serves other
dtypes.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last, contiguous
from gemkern.kernels.cpu.engines.few_rows import (
    lead_few_back,
    multiply_few,
    multiply_few_alone,
    room_backward,
    room_forward,
)
from gemkern.kernels.cpu.engines.rows import lead_back, multiply, multiply_alone
from gemkern.kernels.cpu.lists.pattern_lists import lists_of
from gemkern.kernels.cpu.machine.lanes import BYTES, LANES, LINE, PATCH
from gemkern.kernels.cpu.machine.scratch import scratch
from gemkern.kernels.cpu.machine.serving import address, float32_or
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.reference.batch_last import is_batch_last
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

# Bytes of what entries read of a block of rows: it stays in the second-level cache.
TILE_BYTES = 2**18
# Over how many bands of rows the gradients of values are summed: what threads share.
BANDS = 8
# Products of vectors, of more and of few rows, below which one thread ends before others begin.
ALONE, ALONE_WITH_FEW = 2**13, 2**15
# Lanes of vectors that are as short as there are few rows, forward and backward; the longest ones
# of the backward pass pay from such a density on.
FEW_LANES, FEW_LANES_BACK = (1, 4, 8, 16), (1, 8, 16, 32, 64)
FROM_DENSITY = 0.1
# Entries of a part of the outputs in the backward pass of few rows, about, and parts at most.
PART, PARTS = 2**15, 8


@float32_or(reference.sparse_linear)
def sparse_linear(x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return y, x times the remaining weights, plus bias [Ko], contiguous."""
    (batch, inputs), outputs = x.shape, pattern.shape[0]
    y = x.new_empty(batch, outputs)
    if 0 in y.shape:
        return y
    threads = start_threads()
    if batch <= FEW_LANES[-1]:
        _multiply_few(threads, x, values, pattern, bias, y)
        return y
    x, step = _laid(x, LANES)
    block = _block(batch, inputs)
    entries, bounds, *_ = _by_output(pattern, BYTES * (block if step else batch))
    operands = (
        x.data_ptr(), step, batch, inputs, outputs, block, values.detach().numpy(), entries, bounds,
        address(bias), y.data_ptr(),
    )  # fmt: skip
    size = _room(block, inputs, outputs)
    if threads == 1 or len(entries) * -(-batch // LANES) < ALONE:
        multiply_alone(*operands, scratch(size))
    else:
        multiply(threads, *operands, scratch(threads * size), size)
    return y


@float32_or(reference.sparse_linear_backward)
def sparse_linear_backward(
    grad_y: Tensor,
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    wants_x: bool,
    wants_values: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return dL/dx [N, Ki] and dL/dvalues [nnz] from dL/dy, or None for what is not wanted."""
    (batch, inputs), outputs = x.shape, pattern.shape[0]
    wants_batch_last = not x.is_contiguous() and is_batch_last(x)
    lanes = _lanes_back(batch, pattern)
    x, step = _laid(x, lanes or LANES)
    grad_y, grad_step = _laid(grad_y, lanes or LANES)
    grad_x = None
    if wants_x:
        grad_x = x.new_empty(x.shape) if step or lanes else torch.empty_like(x)
    grad_values = x.new_zeros(len(pattern.positions) if wants_values else 0)
    if 0 not in (batch, inputs) and lanes:
        _lead_few_back(lanes, (grad_y, grad_step), (x, step), values, pattern, grad_x, grad_values)
    elif 0 not in (batch, inputs):
        threads = start_threads()
        block = _block(batch, outputs)
        blocks = -(-batch // block)
        bands = min(blocks, BANDS)
        size = _room(block, outputs, inputs, inputs)
        lead_back(
            threads, grad_y.data_ptr(), grad_step, x.data_ptr(), step, batch, inputs, outputs,
            block, np.arange(bands + 1) * blocks // bands, values.detach().numpy(),
            *_by_input(pattern, BYTES * (block if grad_step else batch)), address(grad_x),
            grad_values.numpy(), scratch(threads * size), size,
        )  # fmt: skip
    if grad_x is not None and wants_batch_last:
        grad_x = batch_last(grad_x)
    return grad_x, grad_values if wants_values else None


def _multiply_few(
    threads: int,
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    y: Tensor,
) -> None:
    """Write y of few rows."""
    batch, (outputs, inputs) = y.shape[0], pattern.shape
    lanes = FEW_LANES[bisect_left(FEW_LANES, batch)]
    x, step = _laid(x, lanes)
    _, _, entries, bounds = _by_output(pattern, BYTES * lanes)
    operands = (
        batch, lanes, x.data_ptr(), step, inputs, outputs, entries, values.data_ptr(), bounds,
        address(bias), y.data_ptr(), scratch(room_forward(lanes, inputs, outputs)),
    )  # fmt: skip
    if threads == 1 or len(values) < ALONE_WITH_FEW:
        multiply_few_alone(*operands)
    else:
        multiply_few(threads, *operands)


def _lanes_back(batch: int, pattern: Pattern) -> int:
    """Return the lanes of a vector that all rows are in the backward pass; 0 for many rows."""
    is_dense = len(pattern.positions) >= FROM_DENSITY * math.prod(pattern.shape)
    fitting = FEW_LANES_BACK if is_dense else FEW_LANES_BACK[:-1]
    return next((lanes for lanes in fitting if batch <= lanes), 0)


def _lead_few_back(
    lanes: int,
    grad_y: tuple[Tensor, int],
    x: tuple[Tensor, int],
    values: Tensor,
    pattern: Pattern,
    grad_x: Tensor | None,
    grad_values: Tensor,
) -> None:
    """Write both gradients from rows that come with their steps; [0] leaves that of values out."""
    (batch, inputs), outputs = x[0].shape, pattern.shape[0]
    parts = max(1, min(len(values) // PART, PARTS))
    size = room_backward(parts, lanes, inputs, outputs)
    room = scratch(size + BYTES * len(values))
    _, _, entries, bounds = _by_output(pattern, BYTES * lanes)
    lead_few_back(
        start_threads(), parts, batch, lanes, inputs, outputs, grad_y[0].data_ptr(), grad_y[1],
        x[0].data_ptr(), x[1], entries, values.data_ptr(), bounds, address(grad_x),
        grad_values.data_ptr() if len(grad_values) else room + size, room,
    )  # fmt: skip


def _laid(rows: Tensor, lanes: int) -> tuple[Tensor, int]:
    """Return rows [N, K] as they are walked, and how many bytes apart.

    That is 0 where they lie batch-last, in whole vectors of so many lanes.
    """
    if rows.is_contiguous():
        return rows, BYTES * rows.shape[1]
    if rows.stride(1) == 1 and rows.stride(0) >= rows.shape[1]:
        return rows, BYTES * rows.stride(0)
    if rows.shape[0] % lanes == 0 and is_batch_last(rows):
        return rows, 0
    rows = contiguous(rows)
    return rows, BYTES * rows.shape[1]


def _block(batch: int, channels: int) -> int:
    """Return how many rows are turned over at once, of which entries read so many channels."""
    widest = TILE_BYTES // (BYTES * LANES * max(channels, 1))
    # Two blocks at least, for two threads.
    half = -(-batch // (2 * LANES))
    return LANES * max(1, min(widest, half, PATCH))


def _room(block: int, *channels: int) -> int:
    """Return how many bytes a thread turns blocks of so many channels over in."""
    return sum(BYTES * block * count + LINE for count in channels)


def _by_output(pattern: Pattern, step: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return entries by output, where inputs lie `step` apart, and bounds, and their addresses."""

    def make() -> tuple[np.ndarray, np.ndarray, int, int]:
        entries = pattern.positions.numpy() % max(pattern.shape[1], 1) * step
        bounds = pattern.starts.numpy()
        return entries, bounds, entries.ctypes.data, bounds.ctypes.data

    found: tuple[np.ndarray, np.ndarray, int, int]
    found = lists_of(pattern, ("by output", step), make)
    return found


def _by_input(pattern: Pattern, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return entries by input, where outputs lie `step` apart, numbers and bounds."""

    def make() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs, inputs = np.divmod(pattern.positions.numpy(), max(pattern.shape[1], 1))
        numbers = np.argsort(inputs, kind="stable")
        bounds = np.searchsorted(inputs[numbers], np.arange(pattern.shape[1] + 1))
        return outputs[numbers] * step, numbers, bounds

    found: tuple[np.ndarray, np.ndarray, np.ndarray] = lists_of(pattern, ("by input", step), make)
    return found
