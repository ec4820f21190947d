"""Runs of pixels led back: the products of entries with the input, and the input's gradient."""

from __future__ import annotations

from gemkern.kernels.cpu.strips import VECTORS
from gemkern.kernels.cpu.vectors import LANES, gradients
from numba import njit

# Sums that stay in registers beside as many vectors of the input: of 32 or 16 registers.
SUMS = 8 if LANES == 16 else 4


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
