"""A convolution, or its input gradient, that reads the tensor where it lies: nothing is copied.

Targets are walked row by row, channel by channel. A row of a channel stays in the first-level
cache while what the entries read is added to it, a few entries at a time, each a long run of
memory. Each target is summed by one thread, in the order of the entries: results do not depend on
the number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.direct_lists import keep_rows
from gemkern.kernels.cpu.memory import floats
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.reach import Sizes
from gemkern.kernels.cpu.row_vectors import row_adder
from gemkern.kernels.cpu.scratch import LINE
from gemkern.kernels.cpu.strip_forward import BYTES, share_of
from gemkern.kernels.cpu.strip_results import write_result
from gemkern.kernels.cpu.vectors import LANES, wait_for_stores
from numba import njit, prange

add_four, add_two, add_one = (row_adder(many) for many in (4, 2, 1))


@njit
def add_entries(target, target_step, source, source_step, entries, values, count, pixels, vectors):
    """Add what a list of entries reads to runs of vectors, as `row_adder` does."""
    while count >= 4:
        add_four(target, target_step, source, source_step, entries, values, pixels, vectors)
        entries += 32
        values += 16
        count -= 4
    if count >= 2:
        add_two(target, target_step, source, source_step, entries, values, pixels, vectors)
        entries += 16
        values += 8
        count -= 2
    if count:
        add_one(target, target_step, source, source_step, entries, values, pixels, vectors)


@njit
def fill(target, target_step, start, pixels, images):
    """Write `start` to all images of pixels that lie so many bytes apart."""
    for pixel in range(pixels):
        of_pixel = floats(target + pixel * target_step, images)
        for image in range(images):
            of_pixel[image] = start


@njit
def make_line(target, near, source, sizes, reaches, kept, channel, start, images):
    """Write a row of a channel: `start` plus the sum of what its entries read.

    Its pixels lie `near` bytes apart, those of its base row begin at `source`.
    """
    entries, values, bounds = kept
    fill(target, near, start, sizes.columns, images)
    far = BYTES * sizes.batch
    step, base_step = sizes.step * near, sizes.base_step * far
    # Pixels that lie side by side in both are one run of vectors.
    merged = step == base_step == BYTES * images
    for place in range(sizes.taps):
        key = channel * sizes.taps + place
        begin, end = bounds[key], bounds[key + 1]
        first, count, base = reaches[place]
        pixels, vectors = (1, count * images // LANES) if merged else (count, images // LANES)
        add_entries(
            target + first * near, step, source + base * far, base_step,
            entries.ctypes.data + begin * 8, values.ctypes.data + begin * BYTES, end - begin,
            pixels, vectors,
        )  # fmt: skip


@njit(parallel=True, cache=True, error_model="numpy")
def direct(
    threads, source, target, bias, values, entries, bounds, of_sizes, runs, reaches, lines, streamed
):
    """Write the target, the output or the gradient of the input; past the caches if streamed.

    of_sizes: the fields of `Sizes`. runs, reaches: of the rows and of the columns.
    """
    control = float_control()
    sizes = Sizes(*of_sizes)
    lists, batch, channels = (entries, bounds), sizes.batch, sizes.channels
    pieces = -(-batch // max(sizes.piece, 1))
    makings = len(lines) * pieces * channels
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        # By the run of a row; bounds that begin with -1 have not been made.
        kept_entries = np.empty((len(runs), len(entries)), np.int64)
        kept_values = np.empty((len(runs), len(entries)), np.float32)
        kept_bounds = np.full((len(runs), len(bounds)), -1)
        room = np.empty((sizes.columns * sizes.piece if streamed else 0) + LINE, np.float32)
        buffer = (room.ctypes.data + LINE - 1) // LINE * LINE
        mine = share_of(makings, thread, threads)
        for making in range(mine[0], mine[1]):
            unit, channel = divmod(making, channels)
            line, number = divmod(unit, pieces)
            run, row, base = lines[line]
            kept = kept_entries[run], kept_values[run], kept_bounds[run]
            if kept[2][0] < 0:
                keep_rows(lists, values, values, runs[run, 3], runs[run, 4], BYTES * batch, kept)
            image = number * sizes.piece
            images = min(sizes.piece, batch - image)
            made = (channel * sizes.rows + row) * sizes.columns * batch + image
            goal = target + BYTES * made
            at, near = (buffer, BYTES * images) if streamed else (goal, BYTES * batch)
            make_line(
                at, near, source + BYTES * (base * sizes.sources * batch + image), sizes, reaches,
                kept, channel, floats(bias, channels)[channel] if bias else np.float32(0), images,
            )  # fmt: skip
            if streamed:
                shape = (sizes.columns, images, near, BYTES * batch, 0)
                write_result(shape, buffer, goal, True)
        wait_for_stores()
        set_float_control(before)
