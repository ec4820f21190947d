"""The gradient of the values, read where both tensors lie: nothing is copied.

Walked as in `normed_direct`, with the input as the target: of each run of its pixels, the products
with what its entries read of the output's gradient.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.direct_lists import keep_rows
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.products import multiply_run_from_start, total_of
from gemkern.kernels.cpu.reach import Side
from gemkern.kernels.cpu.strip_forward import BYTES
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, LANES_OF_SUM, sum_of_lanes
from numba import njit, prange


@njit
def multiply_line(kind, x, source, pixel, columns, block, kept, key, sums):
    """Add the products of a block of columns of a row of a channel."""
    entries, _, bounds = kept
    for number in range(columns.blocks[block], columns.blocks[block + 1]):
        run = columns.runs[number]
        begin, end = bounds[key + run[3]], bounds[key + run[4]]
        multiply_run_from_start(
            kind, x + run[0] * pixel, columns.step * pixel, source + run[2] * pixel, 0,
            columns.base_step * pixel, entries.ctypes.data + begin * 8, end - begin,
            sums + begin * BYTES_OF_SUM, run[1],
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
    threads, grad_y, x, grad_values, entries, bounds, batch, channels, of_rows, of_columns, units,
    begins, parts,
):  # fmt: skip
    """Write the gradient of the values [nnz]; grad_y and x, of so many channels, are addresses.

    of_rows, of_columns: the fields of each.
    """
    control = float_control()
    rows = Side(*of_rows)
    columns = Side(*of_columns)
    lists, count, pixel = (entries, bounds), len(entries), BYTES * batch
    every, numbers = np.ones(count, np.float32), np.arange(count)
    of_parts = np.zeros((parts, count), np.float32)
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        kept = (
            np.empty(count, np.int64), np.empty(count, np.int64), np.zeros(len(bounds), np.int64)
        )  # fmt: skip
        sums = np.zeros((count, LANES_OF_SUM), np.float32)
        # As long as no rows are kept, there is nothing to empty.
        known, known_part = -1, 0
        for unit in range(begins[thread], begins[thread + 1]):
            part, kind, image, block, run, row, base = units[unit]
            if run != known or part != known_part:
                empty_sums(kept, sums, of_parts[known_part])
                if run != known:
                    first, last = rows.runs[run, 3], rows.runs[run, 4]
                    keep_rows(lists, every, numbers, first, last, pixel, kept)
                known, known_part = run, part
            for channel in range(channels):
                place = (channel * rows.targets + row) * columns.targets * pixel
                multiply_line(
                    kind, x + place + image, grad_y + base * columns.sources * pixel + image, pixel,
                    columns, block, kept, channel * columns.taps, sums.ctypes.data,
                )  # fmt: skip
        empty_sums(kept, sums, of_parts[known_part])
        set_float_control(before)
    grad_values[:] = total_of(of_parts)
