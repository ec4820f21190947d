"""The gradient of the values, read where both tensors lie: nothing is copied.

Walked as in `direct`, with the input as the target: a row of a channel stays in the first-level
cache while it is multiplied with what its entries read of the output's gradient.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.engines.direct import part_of_line
from gemkern.kernels.cpu.lists.nonzero import keep_rows
from gemkern.kernels.cpu.loops.row_vectors import multiply_entries_from_start
from gemkern.kernels.cpu.loops.vectors import sum_of_lanes
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_SUM, LANES_OF_SUM, share_of
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.walks.dealing import total_of
from gemkern.kernels.cpu.walks.lines import Sizes
from numba import prange


@njit
def multiply_line(x, source, sizes, runs, kept, which, channel, sums):
    """Add the products of a row of a channel to the sums; the operands are those of `make_line`."""
    entries, _, bounds = kept
    listed = entries.ctypes.data + which * entries.shape[1] * 8
    for run in runs:
        offset, step, base, base_step, begin, count, pixels, vectors = part_of_line(
            sizes, run, bounds, which, channel
        )
        multiply_entries_from_start(
            x + offset, step, source + base, base_step, 0, listed + begin * 8, count,
            sums + begin * BYTES_OF_SUM, pixels, vectors,
        )  # fmt: skip


@njit
def empty_sums(kept, which, sums, taps, channel, found):
    """Add the sums of a channel's entries to what was found, by number, and clear them."""
    _, numbers, bounds = kept
    for place in range(bounds[which, channel * taps], bounds[which, (channel + 1) * taps]):
        found[numbers[which, place]] += sum_of_lanes(sums.ctypes.data + place * BYTES_OF_SUM)
        sums[place] = 0


@njit(parallel=True, cache=True, error_model="numpy")
def direct_products(
    threads, grad_y, x, grad_values, entries, numbers, bounds, every, of_sizes, row_runs,
    column_runs, lines, bands,
):  # fmt: skip
    """Write the gradient of the values [nnz]; grad_y and x are addresses.

    every: ones and the numbers 0 ... nnz - 1, so that every entry is kept, with its number; the
    others as in `direct`.
    """
    control = float_control()
    sizes = Sizes(*of_sizes)
    lists, count, pixel = (entries, numbers, bounds), len(entries), BYTES * sizes.batch
    line = sizes.columns * pixel
    of_bands = np.zeros((len(bands) - 1, count), np.float32)
    for thread in prange(threads):
        before = adopt(control)
        # By the run of a row; bounds that begin with -1 have not been made.
        kept_entries = np.empty((len(row_runs), count), np.int64)
        kept_numbers = np.empty((len(row_runs), count), np.int64)
        kept_bounds = np.full((len(row_runs), len(bounds)), -1)
        kept = kept_entries, kept_numbers, kept_bounds
        sums = np.zeros((count, LANES_OF_SUM), np.float32)
        mine = share_of(len(of_bands) * sizes.channels, thread, threads)
        for making in range(mine[0], mine[1]):
            band, channel = divmod(making, sizes.channels)
            for number in range(bands[band], bands[band + 1]):
                run, row, base = lines[number]
                if kept_bounds[run, 0] < 0:
                    of_run = kept_entries[run], kept_numbers[run], kept_bounds[run]
                    first, last = row_runs[run, 3], row_runs[run, 4]
                    keep_rows(lists, *every, first, last, pixel, of_run)
                multiply_line(
                    x + (channel * sizes.rows + row) * line,
                    grad_y + base * sizes.sources * pixel, sizes, column_runs, kept, run,
                    channel, sums.ctypes.data,
                )  # fmt: skip
                if number + 1 == bands[band + 1] or lines[number + 1, 0] != run:
                    empty_sums(kept, run, sums, sizes.taps, channel, of_bands[band])
        adopt(before)
    grad_values[:] = total_of(of_bands)
