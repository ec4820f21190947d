"""A convolution, or its input gradient, that reads the tensor where it lies: nothing is copied.

Targets are walked by blocks of columns, then rows, then channels: what all channels of a row read
stays in a core's cache. Each target is summed by one thread, in the order of the entries: results
do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.memory import floats
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.strip_forward import BYTES, SUMS, share_of
from gemkern.kernels.cpu.strip_lists import channel_and_tap
from gemkern.kernels.cpu.strips import VECTORS
from gemkern.kernels.cpu.vectors import accumulator, from_start, wait_for_stores
from numba import njit, prange


def _runner(vectors, streamed):
    """Return the function that accumulates a run of pixels, some at once and then the others."""
    at_once = max(1, SUMS // vectors)
    some = accumulator(at_once, vectors, from_start, streamed)
    one = accumulator(1, vectors, from_start, streamed)

    @njit
    def run(target, target_step, source, source_step, entries, values, count, start, pixels):
        while pixels >= at_once:
            some(target, target_step, source, 0, source_step, 0, entries, values, count, start)
            target += at_once * target_step
            source += at_once * source_step
            pixels -= at_once
        for pixel in range(pixels):
            one(target + pixel * target_step, target_step, source + pixel * source_step, 0,
                source_step, 0, entries, values, count, start)  # fmt: skip

    return run


run_eight, run_four, run_two, run_one = (_runner(vectors, False) for vectors in VECTORS)
run_streamed = _runner(VECTORS[0], True)


@njit
def accumulate_run(kind, streamed, target, target_step, source, source_step, entries, values, count,
                   start, pixels):  # fmt: skip
    """Write a run of pixels of a chunk of this kind, `start` plus the sum of what entries read."""
    if kind == 0 and streamed:
        run_streamed(target, target_step, source, source_step, entries, values, count, start,
                     pixels)  # fmt: skip
    elif kind == 0:
        run_eight(target, target_step, source, source_step, entries, values, count, start, pixels)
    elif kind == 1:
        run_four(target, target_step, source, source_step, entries, values, count, start, pixels)
    elif kind == 2:
        run_two(target, target_step, source, source_step, entries, values, count, start, pixels)
    else:
        run_one(target, target_step, source, source_step, entries, values, count, start, pixels)


@njit(cache=True)
def entries_by_target(values, positions, starts, walk, rows, columns, backward):
    """Return the entries that are not 0, by channel of the target and place of their column.

    Returns:
        entries: int64 [nnz, 4], how many pixels of the source an entry leads on, the place of its
            row, the channel that it reads, and its number among the values.
        bounds: those of channel c and of columns with place p begin at bounds[c * taps + p].
    """
    outputs, inputs = walk.outputs, walk.inputs // walk.groups
    taps, size = walk.kernel_height * walk.kernel_width, len(positions)
    of_tap = np.empty((taps, 3), np.int64)
    for tap in range(taps):
        row, column = divmod(tap, walk.kernel_width)
        of_tap[tap, 0] = rows.offsets[row] * columns.sources + columns.offsets[column]
        of_tap[tap, 1], of_tap[tap, 2] = rows.places[row], columns.places[column]
    keys, found = np.empty(size, np.int64), np.empty((size, 4), np.int64)
    ends = np.zeros((walk.inputs if backward else outputs) * columns.taps + 2, np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            keys[number] = -1
            if values[number] == 0:
                continue
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            target, source = output, base + np.int64(channel)
            if backward:
                target, source = source, target
            keys[number] = target * columns.taps + of_tap[tap, 2]
            found[number, 0] = source * rows.sources * columns.sources + of_tap[tap, 0]
            found[number, 1], found[number, 2] = of_tap[tap, 1], source
            found[number, 3] = number
            ends[keys[number] + 2] += 1
    for place in range(2, len(ends)):
        ends[place] += ends[place - 1]
    entries = np.empty((size, 4), np.int64)
    for number in range(size):
        if keys[number] >= 0:
            entries[ends[keys[number] + 1]] = found[number]
            ends[keys[number] + 1] += 1
    return entries, ends[:-1]


@njit(cache=True)
def keep_rows(lists, values, first, last, bytes_of_pixel, kept):
    """Copy those entries whose row has a place in first:last; now they lead so many bytes on.

    `values` [nnz, ...], by the number of an entry, are copied beside them.
    """
    entries, bounds = lists
    kept_entries, kept_values, kept_bounds = kept
    count = 0
    for key in range(len(bounds) - 1):
        kept_bounds[key] = count
        for number in range(bounds[key], bounds[key + 1]):
            if first <= entries[number, 1] < last:
                kept_entries[count] = entries[number, 0] * bytes_of_pixel
                kept_values[count] = values[entries[number, 3]]
                count += 1
    kept_bounds[len(bounds) - 1] = count


@njit
def write_line(kind, streamed, target, source, pixel, columns, block, kept, key, start):
    """Write a block of columns of a row of a channel; its row and its base row lie at addresses."""
    entries, values, bounds = kept
    for run in range(columns.blocks[block], columns.blocks[block + 1]):
        first, count, base = columns.runs[run, 0], columns.runs[run, 1], columns.runs[run, 2]
        begin, end = bounds[key + columns.runs[run, 3]], bounds[key + columns.runs[run, 4]]
        accumulate_run(
            kind, streamed, target + first * pixel, columns.step * pixel, source + base * pixel,
            columns.base_step * pixel, entries.ctypes.data + begin * 8,
            values.ctypes.data + begin * 4, end - begin, start, count,
        )  # fmt: skip


@njit(parallel=True, cache=True, error_model="numpy")
def direct(
    threads, source, target, bias, values, positions, starts, walk, rows, columns, units, backward,
    streamed,
):  # fmt: skip
    """Write the target: the output, or the gradient of the input; past the caches if streamed."""
    control = float_control()
    lists = entries_by_target(values, positions, starts, walk, rows, columns, backward)
    channels = walk.inputs if backward else walk.outputs
    pixel, makings = BYTES * walk.batch, len(units) * channels
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        kept = (
            np.empty(len(lists[0]), np.int64),
            np.empty(len(lists[0]), np.float32),
            np.empty(len(lists[1]), np.int64),
        )
        known = -1
        mine = share_of(makings, thread, threads)
        for making in range(mine[0], mine[1]):
            unit, channel = divmod(making, channels)
            _, kind, image, block, run, row, base = units[unit]
            if run != known:
                keep_rows(lists, values, rows.runs[run, 3], rows.runs[run, 4], pixel, kept)
                known = run
            write_line(
                kind, streamed,
                target + (channel * rows.targets + row) * columns.targets * pixel + image,
                source + base * columns.sources * pixel + image, pixel, columns, block, kept,
                channel * columns.taps,
                floats(bias, channels)[channel] if bias else np.float32(0),
            )  # fmt: skip
        wait_for_stores()
        set_float_control(before)
