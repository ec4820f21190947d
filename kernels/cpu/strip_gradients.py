"""Runs of pixels led back: the products of entries with the input, and the input's gradient."""

from __future__ import annotations

from gemkern.kernels.cpu.strips import VECTORS
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, LANES, dot_products, gradients
from numba import njit

# Sums that stay in registers beside as many vectors of the input: of 32 or 16 registers.
SUMS = 8 if LANES == 16 else 4


def _product_runner(vectors):
    """Return the function that adds the products of a list of entries over a run of pixels."""
    eight, four, two, one = (dot_products(entries, vectors) for entries in (8, 4, 2, 1))

    @njit
    def run(x, x_step, rows, shift, entries, count, sums, pixels):
        while count >= 8:
            eight(x, x_step, rows, shift, entries, sums, pixels)
            entries += 64
            sums += 8 * BYTES_OF_SUM
            count -= 8
        if count >= 4:
            four(x, x_step, rows, shift, entries, sums, pixels)
            entries += 32
            sums += 4 * BYTES_OF_SUM
            count -= 4
        if count >= 2:
            two(x, x_step, rows, shift, entries, sums, pixels)
            entries += 16
            sums += 2 * BYTES_OF_SUM
            count -= 2
        if count:
            one(x, x_step, rows, shift, entries, sums, pixels)

    return run


multiply_eight, multiply_four, multiply_two, multiply_one = (
    _product_runner(vectors) for vectors in VECTORS
)


@njit
def multiply_run(kind, x, x_step, rows, shift, entries, count, sums, pixels):
    """Add the products of a list of entries over a run of pixels of a chunk of this kind."""
    if kind == 0:
        multiply_eight(x, x_step, rows, shift, entries, count, sums, pixels)
    elif kind == 1:
        multiply_four(x, x_step, rows, shift, entries, count, sums, pixels)
    elif kind == 2:
        multiply_two(x, x_step, rows, shift, entries, count, sums, pixels)
    else:
        multiply_one(x, x_step, rows, shift, entries, count, sums, pixels)


def _runner(vectors):
    """Return the function that makes both gradients of a run of pixels."""
    at_once = max(1, SUMS // vectors)
    some, one = gradients(at_once, vectors), gradients(1, vectors)

    @njit
    def run(target, target_step, x, x_step, rows, shift, source_step, entries, values, count, sums,
            pixels):  # fmt: skip
        while pixels >= at_once:
            some(target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
                 sums)  # fmt: skip
            target += at_once * target_step
            x += at_once * x_step
            shift += at_once * source_step
            pixels -= at_once
        for pixel in range(pixels):
            one(target + pixel * target_step, target_step, x + pixel * x_step, x_step, rows,
                shift + pixel * source_step, source_step, entries, values, count,
                sums)  # fmt: skip

    return run


lead_eight, lead_four, lead_two, lead_one = (_runner(vectors) for vectors in VECTORS)


@njit
def lead_run(kind, target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
             sums, pixels):  # fmt: skip
    """Write a run of the input's gradient and add the products of a list of entries over it."""
    if kind == 0:
        lead_eight(target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
                   sums, pixels)  # fmt: skip
    elif kind == 1:
        lead_four(target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
                  sums, pixels)  # fmt: skip
    elif kind == 2:
        lead_two(target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
                 sums, pixels)  # fmt: skip
    else:
        lead_one(target, target_step, x, x_step, rows, shift, source_step, entries, values, count,
                 sums, pixels)  # fmt: skip
