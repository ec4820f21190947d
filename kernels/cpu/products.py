"""The products of entries with the input over runs of pixels: sums of the gradient of the values.

An entry's sum is kept in a few lanes (`LANES_OF_SUM`), folded at the end.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.strips import VECTORS
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, dot_products, from_row, from_start
from numba import njit


def _runner(vectors, source_of):
    """Return the function that adds the products of a list of entries over a run of pixels."""
    eight, four, two, one = (dot_products(entries, vectors, source_of) for entries in (8, 4, 2, 1))

    @njit
    def run(x, x_step, source, shift, source_step, entries, count, sums, pixels):
        while count >= 8:
            eight(x, x_step, source, shift, source_step, entries, sums, pixels)
            entries += 64
            sums += 8 * BYTES_OF_SUM
            count -= 8
        if count >= 4:
            four(x, x_step, source, shift, source_step, entries, sums, pixels)
            entries += 32
            sums += 4 * BYTES_OF_SUM
            count -= 4
        if count >= 2:
            two(x, x_step, source, shift, source_step, entries, sums, pixels)
            entries += 16
            sums += 2 * BYTES_OF_SUM
            count -= 2
        if count:
            one(x, x_step, source, shift, source_step, entries, sums, pixels)

    return run


def _multiplier(source_of):
    """Return the function that does so for a chunk of any kind."""
    eight, four, two, one = (_runner(vectors, source_of) for vectors in VECTORS)

    @njit
    def multiply(kind, x, x_step, source, shift, source_step, entries, count, sums, pixels):
        if kind == 0:
            eight(x, x_step, source, shift, source_step, entries, count, sums, pixels)
        elif kind == 1:
            four(x, x_step, source, shift, source_step, entries, count, sums, pixels)
        elif kind == 2:
            two(x, x_step, source, shift, source_step, entries, count, sums, pixels)
        else:
            one(x, x_step, source, shift, source_step, entries, count, sums, pixels)

    return multiply


@njit
def total_of(parts):
    """Return the sums over parts [parts, entries], in their order."""
    totals = np.zeros(parts.shape[1], np.float32)
    for part in parts:
        for entry in range(len(totals)):
            totals[entry] += part[entry]
    return totals


multiply_run, multiply_run_from_start = _multiplier(from_row), _multiplier(from_start)
