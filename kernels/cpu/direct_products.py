"""The gradient of the values, read where both tensors lie: nothing is copied.

Walked as in `direct`, with the input as the target: a row of a channel stays in the first-level
cache while it is multiplied with what its entries read of the output's gradient.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.dealing import total_of
from gemkern.kernels.cpu.direct_lists import keep_rows
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.reach import Sizes
from gemkern.kernels.cpu.row_vectors import multiply_entries_from_start, runs_of
from gemkern.kernels.cpu.strip_forward import BYTES, share_of
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, LANES, LANES_OF_SUM, sum_of_lanes
from numba import njit, prange


@njit
def multiply_line(x, source, sizes, runs, kept, channel, sums):
    """Add the products of a row of a channel to the sums; its base row begins at `source`."""
    entries, _, bounds = kept
    pixel = BYTES * sizes.batch
    step, base_step = sizes.step * pixel, sizes.base_step * pixel
    key = channel * sizes.taps
    for number in range(len(runs)):
        first, count, base, left, right = runs[number]
        begin, end = bounds[key + left], bounds[key + right]
        pixels, vectors = runs_of(step, base_step, count, pixel, sizes.batch // LANES)
        multiply_entries_from_start(
            x + first * pixel, step, source + base * pixel, 0, base_step, 0,
            entries.ctypes.data + begin * 8, end - begin, sums + begin * BYTES_OF_SUM, pixels,
            vectors,
        )  # fmt: skip


@njit
def empty_sums(kept, sums, found):
    """Add the sums of the entries that are kept to what was found, by number, and clear them."""
    _, numbers, bounds = kept
    for place in range(bounds[-1]):
        found[int(numbers[place])] += sum_of_lanes(sums.ctypes.data + place * BYTES_OF_SUM)
        sums[place] = 0


@njit(parallel=True, cache=True, error_model="numpy")
def direct_products(
    threads, grad_y, x, grad_values, entries, bounds, every, numbers, of_sizes, row_runs,
    column_runs, lines, bands,
):  # fmt: skip
    """Write the gradient of the values [nnz]; grad_y and x are addresses.

    every, numbers: as `numbers_of` returns them; the others as in `direct`.
    """
    control = float_control()
    sizes = Sizes(*of_sizes)
    lists, count, pixel = (entries, bounds), len(entries), BYTES * sizes.batch
    of_bands = np.zeros((len(bands) - 1, count), np.float32)
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        kept = (
            np.empty(count, np.int64), np.empty(count, np.int64), np.zeros(len(bounds), np.int64)
        )  # fmt: skip
        sums = np.zeros((count, LANES_OF_SUM), np.float32)
        known = -1
        mine = share_of(len(of_bands), thread, threads)
        for band in range(mine[0], mine[1]):
            for number in range(bands[band], bands[band + 1]):
                run, row, base = lines[number]
                if run != known:
                    empty_sums(kept, sums, of_bands[band])
                    first, last = row_runs[run, 3], row_runs[run, 4]
                    keep_rows(lists, every, numbers, first, last, pixel, kept)
                    known = run
                for channel in range(sizes.channels):
                    place = (channel * sizes.rows + row) * sizes.columns * pixel
                    multiply_line(
                        x + place, grad_y + base * sizes.sources * pixel, sizes, column_runs, kept,
                        channel, sums.ctypes.data,
                    )  # fmt: skip
            empty_sums(kept, sums, of_bands[band])
        set_float_control(before)
    grad_values[:] = total_of(of_bands)
