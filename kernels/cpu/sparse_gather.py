"""The forward pass and the input gradient: each pixel gathers what its entries read.

A channel of a pixel is the sum, over the entries that reach it, of a value times a run of images.
Threads share out pixels, and channels where there are too few pixels; each sum is made by one
thread, in the order of the entries, so that it does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.image_chunks import STREAMED, VECTORS
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.sparse_lists import block_of, list_entries, ranges_of
from gemkern.kernels.cpu.vectors import (
    LANES,
    accumulator,
    wait_for_stores,
)
from numba import njit, prange

# Sums that stay in registers: of 32 there are with AVX-512, of 16 otherwise.
SUMS = 16 if LANES == 16 else 8


def _runner(vectors, masked=False, streamed=False):
    """Return the function that accumulates a run of pixels, some at once and then the others."""
    at_once = max(1, SUMS // vectors)
    some = accumulator(at_once, vectors, masked, streamed)
    one = accumulator(1, vectors, masked, streamed)

    @njit
    def run(target, target_step, source, source_step, offsets, values, count, start, resume, rest,
            pixels):  # fmt: skip
        while pixels >= at_once:
            some(target, target_step, source, source_step, offsets, values, count, start, resume,
                 rest)  # fmt: skip
            target += at_once * target_step
            source += at_once * source_step
            pixels -= at_once
        for pixel in range(pixels):
            one(target + pixel * target_step, target_step, source + pixel * source_step,
                source_step, offsets, values, count, start, resume, rest)  # fmt: skip

    return run


run_eight, run_four, run_two, run_one = (_runner(vectors) for vectors in VECTORS[:4])
run_masked = _runner(1, masked=True)
run_streamed = _runner(VECTORS[0], streamed=True)


@njit
def run_of(kind, target, target_step, source, source_step, offsets, values, count, start, resume,
           rest, pixels):  # fmt: skip
    """Accumulate a run of pixels over a chunk of images of this kind."""
    if kind == 0:
        run_eight(target, target_step, source, source_step, offsets, values, count, start, resume,
                  rest, pixels)  # fmt: skip
    elif kind == 1:
        run_four(target, target_step, source, source_step, offsets, values, count, start, resume,
                 rest, pixels)  # fmt: skip
    elif kind == 2:
        run_two(target, target_step, source, source_step, offsets, values, count, start, resume,
                rest, pixels)  # fmt: skip
    elif kind == 3:
        run_one(target, target_step, source, source_step, offsets, values, count, start, resume,
                rest, pixels)  # fmt: skip
    elif kind == STREAMED:
        run_streamed(target, target_step, source, source_step, offsets, values, count, start,
                     resume, rest, pixels)  # fmt: skip
    else:
        run_masked(target, target_step, source, source_step, offsets, values, count, start, resume,
                   rest, pixels)  # fmt: skip


@njit
def gather_rows(
    first, last, first_channel, last_channel, target, target_strides, source, source_strides, bias,
    entries, rows, columns, chunks,
):  # fmt: skip
    """Write some channels of the tasks first:last; a task is a row of pixels, a chunk of images."""
    ranges = ranges_of(entries, first_channel, last_channel)
    kinds, room = len(columns.reach), np.sum(ranges[:, 1] - ranges[:, 0]) + 1
    offsets = np.empty((kinds, room), np.int64)
    values = np.empty((kinds, room), np.float32)
    bounds = np.empty((kinds, len(ranges) + 1), np.int64)
    first_offset, first_value = offsets.ctypes.data, values.ctypes.data
    for block in range(len(entries.read_blocks) - 1):
        block_ranges = block_of(entries, ranges, block)
        for column_block in range(len(columns.blocks) - 1):
            runs = range(columns.blocks[column_block], columns.blocks[column_block + 1])
            row_kind = -1
            for task in range(first, last):
                row_task, (chunk_kind, image, rest) = (
                    task // len(chunks),
                    chunks[task % len(chunks)],
                )
                if rows.pixels[row_task, 0] != row_kind:
                    row_kind = rows.pixels[row_task, 0]
                    list_entries(
                        entries, block_ranges, rows.reach[row_kind], columns.reach, source_strides,
                        offsets, values, bounds,
                    )  # fmt: skip
                row_target = target + rows.pixels[row_task, 1] * target_strides[1] + image * 4
                row_source = source + rows.pixels[row_task, 2] * source_strides[1] + image * 4
                for number in range(len(ranges)):
                    channel = first_channel + number
                    start = bias[channel] if len(bias) else np.float32(0)
                    channel_target = row_target + channel * target_strides[0]
                    for run in runs:
                        kind, begin = columns.runs[run, 0], bounds[columns.runs[run, 0], number]
                        run_of(
                            chunk_kind,
                            channel_target + columns.runs[run, 1] * target_strides[2],
                            columns.runs[run, 3] * target_strides[2],
                            row_source + columns.runs[run, 4] * source_strides[2],
                            columns.base_step * source_strides[2],
                            first_offset + (kind * room + begin) * 8,
                            first_value + (kind * room + begin) * 4,
                            bounds[kind, number + 1] - begin,
                            start, block, rest, columns.runs[run, 2],
                        )  # fmt: skip


@njit(parallel=True, cache=True)
def gather(
    threads, parts, channels, target, target_strides, source, source_strides, bias, entries, rows,
    columns, chunks,
):  # fmt: skip
    """Write every pixel of the target: each task's channels in `parts` parts, shared by threads."""
    control = float_control()
    tasks, shares = len(rows.pixels) * len(chunks), threads // parts
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        share, part = thread // parts, thread % parts
        gather_rows(
            tasks * share // shares, tasks * (share + 1) // shares,
            channels * part // parts, channels * (part + 1) // parts,
            target, target_strides, source, source_strides, bias, entries, rows, columns, chunks,
        )  # fmt: skip
        set_float_control(before)
        wait_for_stores()
