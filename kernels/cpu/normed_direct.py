"""A convolution that normalises what it reads where it lies, and measures what it writes.

Targets are walked by blocks of columns, then rows, then channels. Every vector is normalised anew
by each entry that reads it: with as few as remain, that costs less than a normalised copy.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.direct_lists import keep_rows
from gemkern.kernels.cpu.memory import floats
from gemkern.kernels.cpu.moments import combine
from gemkern.kernels.cpu.normed_vectors import FACTORS, normed_accumulator
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.reach import Side
from gemkern.kernels.cpu.strip_forward import BYTES, Norm, affine, lanes_of
from gemkern.kernels.cpu.strips import VECTORS, Walk
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, LANES, sum_of_lanes, wait_for_stores
from numba import njit, prange

WIDEST = VECTORS[0] * LANES
# Sums that stay in registers: of 32 there are with AVX-512, of 16 otherwise.
SUMS = 16 if LANES == 16 else 8
# Entries whose reads cost as much as to normalise and copy a pixel that they would read instead, or
# as to write one from a buffer; measured, with AVX-512 and with AVX2.
READ, WRITTEN = (8 if LANES == 16 else 2), 1


def pays(walk: Walk, entries: int) -> bool:
    """Return whether to normalise what `entries` read, rather than a copy of the input."""
    read = walk.inputs * walk.height * walk.width
    made = walk.out_height * walk.out_width
    return entries * made <= READ * read + WRITTEN * walk.outputs * made


def _runner(vectors, streamed):
    """Return the function that makes a run of pixels, some at once and then the others."""
    at_once = max(1, SUMS // vectors)
    some = normed_accumulator(at_once, vectors, streamed)
    one = normed_accumulator(1, vectors, streamed)

    @njit
    def run(target, target_step, source, source_step, kept, start, least, added, added_step, pivot,
            sums, pixels):  # fmt: skip
        entries, factors, count = kept
        while pixels >= at_once:
            some(target, target_step, source, source_step, entries, factors, count, start, least,
                 added, added_step, pivot, sums)  # fmt: skip
            target += at_once * target_step
            source += at_once * source_step
            added += at_once * added_step
            pixels -= at_once
        for pixel in range(pixels):
            one(target + pixel * target_step, target_step, source + pixel * source_step,
                source_step, entries, factors, count, start, least, added + pixel * added_step,
                added_step, pivot, sums)  # fmt: skip

    return run


run_eight, run_four, run_two, run_one = (_runner(vectors, False) for vectors in VECTORS)
run_streamed = _runner(VECTORS[0], True)


@njit
def accumulate_run(kind, streamed, target, target_step, source, source_step, kept, start, least,
                   added, added_step, pivot, sums, pixels):  # fmt: skip
    """Write a run of pixels of a chunk of this kind, and add to its sums."""
    if kind == 0 and streamed:
        run_streamed(target, target_step, source, source_step, kept, start, least, added,
                     added_step, pivot, sums, pixels)  # fmt: skip
    elif kind == 0:
        run_eight(target, target_step, source, source_step, kept, start, least, added, added_step,
                  pivot, sums, pixels)  # fmt: skip
    elif kind == 1:
        run_four(target, target_step, source, source_step, kept, start, least, added, added_step,
                 pivot, sums, pixels)  # fmt: skip
    elif kind == 2:
        run_two(target, target_step, source, source_step, kept, start, least, added, added_step,
                pivot, sums, pixels)  # fmt: skip
    else:
        run_one(target, target_step, source, source_step, kept, start, least, added, added_step,
                pivot, sums, pixels)  # fmt: skip


@njit
def factors_of(entries, values, table):
    """Return float32 [nnz, 4], by number: an entry's value and the norm of what it reads."""
    factors = np.empty((len(values), FACTORS), np.float32)
    for number in range(len(entries)):
        channel, which = entries[number, 2], entries[number, 3]
        factors[which, 0] = values[which]
        for place in range(1, FACTORS):
            factors[which, place] = table[channel, place - 1]
    return factors


@njit
def kept_of(kept, key, run):
    """Return where the entries of a run lie, where their factors do, and how many there are."""
    entries, factors, bounds = kept
    begin, end = bounds[key + run[3]], bounds[key + run[4]]
    return (
        entries.ctypes.data + begin * 8,
        factors.ctypes.data + begin * FACTORS * BYTES,
        end - begin,
    )


@njit
def pivot_of(kind, source, pixel, columns, block, kept, key, start, least, added, zeros, room):
    """Return the mean of a pixel in the middle of a line."""
    run = columns.runs[(columns.blocks[block] + columns.blocks[block + 1]) // 2]
    middle = run[1] // 2
    base = source + (run[2] + middle * columns.base_step) * pixel
    more = added + (run[0] + middle * columns.step) * pixel if added else zeros
    sums = room + WIDEST * BYTES
    accumulate_run(kind, False, room, 0, base, 0, kept_of(kept, key, run), start, least, more, 0,
                   np.float32(0), sums, 1)  # fmt: skip
    return np.float32(sum_of_lanes(sums) / np.float32(lanes_of(kind)))


@njit
def write_line(kind, streamed, target, source, pixel, columns, block, kept, key, start, least,
               added, pivot, zeros, sums):  # fmt: skip
    """Write a block of columns of a row of a channel; return how many there are."""
    written = 0
    step = columns.step * pixel
    for number in range(columns.blocks[block], columns.blocks[block + 1]):
        run = columns.runs[number]
        more, more_step = (added + run[0] * pixel, step) if added else (zeros, 0)
        accumulate_run(kind, streamed, target + run[0] * pixel, step, source + run[2] * pixel,
                       columns.base_step * pixel, kept_of(kept, key, run), start, least, more,
                       more_step, pivot, sums, run[1])  # fmt: skip
        written += run[1]
    return written


@njit
def norm_table(norm, channels):
    """Return the norm of each channel; without one, what leaves every number as it is."""
    table = affine(norm, channels)
    if norm.mean == 0:
        table[:, 0], table[:, 1], table[:, 2] = 0, 1, 0
    return table


@njit(parallel=True, cache=True, error_model="numpy")
def normed_direct(
    threads, x, of_norm, y, added, bias, mean, var, values, entries, bounds, of_walk, of_rows,
    of_columns, units, begins, parts, streamed,
):  # fmt: skip
    """Write the output, past the caches if streamed, and its moments if there is room for them.

    of_norm, of_walk, of_rows, of_columns: the fields of each.
    """
    control = float_control()
    norm = Norm(*of_norm)
    walk = Walk(*of_walk)
    rows = Side(*of_rows)
    columns = Side(*of_columns)
    lists = entries, bounds
    factors = factors_of(entries, values, norm_table(norm, walk.inputs))
    least = np.float32(norm.least)
    pixel, outputs = BYTES * walk.batch, walk.outputs
    moments = np.zeros((parts, outputs, 4))
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        kept = (
            np.empty(len(entries), np.int64),
            np.empty((len(entries), FACTORS), np.float32),
            np.empty(len(bounds), np.int64),
        )
        zeros, room = np.zeros(WIDEST, np.float32), np.empty(WIDEST + 2 * LANES, np.float32)
        sums = room.ctypes.data + WIDEST * BYTES
        known = -1
        for unit in range(begins[thread], begins[thread + 1]):
            part, kind, image, block, run, row, base = units[unit]
            if run != known:
                first, last = rows.runs[run, 3], rows.runs[run, 4]
                keep_rows(lists, values, factors, first, last, pixel, kept)
                known = run
            source = x + base * columns.sources * pixel + image
            for channel in range(outputs):
                start = floats(bias, outputs)[channel] if bias else np.float32(0)
                key, found = channel * columns.taps, moments[part, channel]
                offset = (channel * rows.targets + row) * columns.targets * pixel + image
                more = added + offset if added else 0
                if found[0] == 0:
                    room[WIDEST:] = 0
                    found[1] = pivot_of(kind, source, pixel, columns, block, kept, key, start,
                                        least, more, zeros.ctypes.data,
                                        room.ctypes.data)  # fmt: skip
                room[WIDEST:] = 0
                written = write_line(
                    kind, streamed, y + offset, source, pixel, columns, block, kept, key, start,
                    least, more, np.float32(found[1]), zeros.ctypes.data, sums,
                )  # fmt: skip
                found[0] += written * lanes_of(kind)
                found[2] += sum_of_lanes(sums)
                found[3] += sum_of_lanes(sums + BYTES_OF_SUM)
        wait_for_stores()
        set_float_control(before)
    if mean:
        combine(moments, mean, var)
