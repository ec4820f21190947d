"""A convolution, or its input gradient, that reads the tensor where it lies: nothing is copied.

Targets are walked row by row, channel by channel. A row of a channel stays in the first-level
cache while what the entries read is added to it, a few entries at a time, each a long run of
memory. Each target is summed by one thread, in the order of the entries: results do not depend on
the number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.engines.strip_results import write_result
from gemkern.kernels.cpu.lists.nonzero import keep_rows
from gemkern.kernels.cpu.loops.row_vectors import add_entries_from_start, stretches_of
from gemkern.kernels.cpu.loops.vectors import wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, LANES, LINE, aligned, share_of
from gemkern.kernels.cpu.machine.memory import floats
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.walks.lines import Sizes
from numba import prange


@njit
def part_of_line(sizes, run, bounds, which, channel):
    """Return how a run of columns is walked for a channel.

    That is: the first byte of its targets and their step, the same of what is read, the first of
    its entries among those kept of run `which` and how many, runs and vectors.
    """
    first, count, base, left, right = run
    key, pixel = channel * sizes.taps, BYTES * sizes.batch
    step, base_step = sizes.step * pixel, sizes.base_step * pixel
    begin, end = bounds[which, key + left], bounds[which, key + right]
    pixels, vectors = stretches_of(step, base_step, count, pixel, sizes.batch // LANES)
    return first * pixel, step, base * pixel, base_step, begin, end - begin, pixels, vectors


@njit
def make_line(target, source, sizes, runs, kept, which, channel, start):
    """Write a row of a channel: `start` plus the sum of what its entries read.

    Its base row begins at `source`; the entries that are kept of it are those of run `which`.
    """
    entries, values, bounds = kept
    before = which * entries.shape[1]
    for run in runs:
        offset, step, base, base_step, begin, count, pixels, vectors = part_of_line(
            sizes, run, bounds, which, channel
        )
        add_entries_from_start(
            target + offset, step, start, source + base, base_step, 0,
            entries.ctypes.data + (before + begin) * 8,
            values.ctypes.data + (before + begin) * BYTES, count, pixels, vectors,
        )  # fmt: skip


@njit(parallel=True, cache=True, error_model="numpy")
def direct(
    threads, source, target, bias, values, entries, numbers, bounds, of_sizes, row_runs,
    column_runs, lines, streamed,
):  # fmt: skip
    """Write the target, the output or the gradient of the input; past the caches if streamed.

    of_sizes: the fields of `Sizes`. row_runs, column_runs, lines: as in `Lines`.
    """
    control = float_control()
    sizes = Sizes(*of_sizes)
    lists, channels = (entries, numbers, bounds), sizes.channels
    pixel, line = BYTES * sizes.batch, sizes.columns * sizes.batch
    for thread in prange(threads):
        before = adopt(control)
        # By the run of a row; bounds that begin with -1 have not been made.
        kept_entries = np.empty((len(row_runs), len(entries)), np.int64)
        kept_values = np.empty((len(row_runs), len(entries)), np.float32)
        kept_bounds = np.full((len(row_runs), len(bounds)), -1)
        kept = kept_entries, kept_values, kept_bounds
        room = np.empty((line if streamed else 0) + LINE, np.float32)
        buffer = aligned(room.ctypes.data)
        mine = share_of(len(lines) * channels, thread, threads)
        for making in range(mine[0], mine[1]):
            number, channel = divmod(making, channels)
            run, row, base = lines[number]
            if kept_bounds[run, 0] < 0:
                of_run = kept_entries[run], kept_values[run], kept_bounds[run]
                first, last = row_runs[run, 3], row_runs[run, 4]
                keep_rows(lists, values, values, first, last, pixel, of_run)
            goal = target + BYTES * (channel * sizes.rows + row) * line
            start = floats(bias, channels)[channel] if bias else np.float32(0)
            make_line(
                buffer if streamed else goal, source + base * sizes.sources * pixel, sizes,
                column_runs, kept, run, channel, start,
            )  # fmt: skip
            if streamed:
                write_result((1, line, 0, 0, 0), buffer, goal, True)
        wait_for_stores()
        adopt(before)
