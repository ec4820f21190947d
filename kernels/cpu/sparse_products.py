"""The weight gradient: an entry is the product of what it reads and of what it writes to, summed.

Threads share out the entries; each sum is made by one thread, in the order of the pixels, so that
it does not depend on the number of threads. A sum is a vector in memory, in registers while a run
of pixels goes by, and its lanes are added at the end.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.image_chunks import VECTORS
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.sparse_lists import block_of, list_entries, ranges_of
from gemkern.kernels.cpu.vectors import (
    LANES,
    dot_products,
    sum_of_lanes,
)
from numba import njit, prange

BYTES_OF_SUM = 4 * LANES


def _runner(vectors, masked=False):
    """Return the function that adds the products of a list of entries over a run of pixels."""
    eight, four, two, one = (dot_products(entries, vectors, masked) for entries in (8, 4, 2, 1))

    @njit
    def run(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels):
        while count >= 8:
            eight(grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest)
            offsets += 64
            labels += 32
            count -= 8
        if count >= 4:
            four(grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest)
            offsets += 32
            labels += 16
            count -= 4
        if count >= 2:
            two(grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest)
            offsets += 16
            labels += 8
            count -= 2
        if count:
            one(grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest)

    return run


run_eight, run_four, run_two, run_one = (_runner(vectors) for vectors in VECTORS[:4])
run_masked = _runner(1, masked=True)


@njit
def run_of(kind, grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels):
    """Add the products of a list of entries over a chunk of images of this kind."""
    if kind == 0:
        run_eight(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels)
    elif kind == 1:
        run_four(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels)
    elif kind == 2:
        run_two(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels)
    elif kind == 3:
        run_one(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels)
    else:
        run_masked(grad, grad_step, source, source_step, offsets, labels, count, sums, rest, pixels)


@njit
def share_of(starts, thread, threads):
    """Return the first output channel of a thread's share: about as many entries for each."""
    return np.searchsorted(starts[:-1], starts[-1] * thread // threads)


@njit
def multiply_channels(
    first_channel, last_channel, result, grad, grad_strides, source, source_strides, entries, rows,
    columns, chunks,
):  # fmt: skip
    """Write the gradient of the entries of the channels first_channel:last_channel to result."""
    ranges = ranges_of(entries, first_channel, last_channel)
    first, last = entries.starts[first_channel], entries.starts[last_channel]
    kinds, room = len(columns.reach), last - first + 1
    offsets = np.empty((kinds, room), np.int64)
    labels = np.empty((kinds, room), np.int32)
    bounds = np.empty((kinds, len(ranges) + 1), np.int64)
    sums = np.zeros((last - first, LANES), np.float32)
    first_offset, first_label = offsets.ctypes.data, labels.ctypes.data
    # Labels count from 1: the label 0 would leave an entry out.
    first_sum = sums.ctypes.data - (first + 1) * BYTES_OF_SUM
    for block in range(len(entries.read_blocks) - 1):
        block_ranges = block_of(entries, ranges, block)
        for column_block in range(len(columns.blocks) - 1):
            runs = range(columns.blocks[column_block], columns.blocks[column_block + 1])
            row_kind = -1
            for task in range(len(rows.pixels) * len(chunks)):
                row_task, (chunk_kind, image, rest) = (
                    task // len(chunks),
                    chunks[task % len(chunks)],
                )
                if rows.pixels[row_task, 0] != row_kind:
                    row_kind = rows.pixels[row_task, 0]
                    list_entries(
                        entries, block_ranges, rows.reach[row_kind], columns.reach, source_strides,
                        offsets, labels, bounds,
                    )  # fmt: skip
                row_grad = grad + rows.pixels[row_task, 1] * grad_strides[1] + image * 4
                row_source = source + rows.pixels[row_task, 2] * source_strides[1] + image * 4
                for number in range(len(ranges)):
                    channel_grad = row_grad + (first_channel + number) * grad_strides[0]
                    for run in runs:
                        kind, begin = columns.runs[run, 0], bounds[columns.runs[run, 0], number]
                        run_of(
                            chunk_kind,
                            channel_grad + columns.runs[run, 1] * grad_strides[2],
                            columns.runs[run, 3] * grad_strides[2],
                            row_source + columns.runs[run, 4] * source_strides[2],
                            columns.base_step * source_strides[2],
                            first_offset + (kind * room + begin) * 8,
                            first_label + (kind * room + begin) * 4,
                            bounds[kind, number + 1] - begin,
                            first_sum, rest, columns.runs[run, 2],
                        )  # fmt: skip
    for entry in range(first, last):
        # Read through the array: Numba would free it after its last use.
        result[entry] = sum_of_lanes(sums.ctypes.data + (entry - first) * BYTES_OF_SUM)


@njit(parallel=True, cache=True)
def multiply(
    threads, result, grad, grad_strides, source, source_strides, entries, rows, columns, chunks
):
    """Write the gradient of every entry to result [nnz]."""
    control, starts = float_control(), entries.starts
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        first, last = share_of(starts, thread, threads), share_of(starts, thread + 1, threads)
        # Channels are whole: which entries of one go together decides how they round.
        multiply_channels(
            first, last, result, grad, grad_strides, source, source_strides, entries, rows,
            columns, chunks,
        )  # fmt: skip
        set_float_control(before)
