"""Lists of entries over a row of a channel: what they add to it, and their products with another.

Rows lie as `row_vectors` says.
"""

from __future__ import annotations

from gemkern.kernels.cpu.memory import floats
from gemkern.kernels.cpu.row_vectors import row_adder, row_gradients
from gemkern.kernels.cpu.vectors import BYTES_OF_SUM, from_row, from_start
from numba import njit


def _adder(source_of):
    """Return the function that adds what a list of entries reads."""
    add_four, add_two, add_one = (row_adder(many, source_of) for many in (4, 2, 1))

    @njit
    def add(target, target_step, rows, shift, source_step, pixel, entries, values, count, pixels,
            vectors):  # fmt: skip
        while count >= 4:
            add_four(target, target_step, rows, shift, source_step, pixel, entries, values, pixels,
                     vectors)  # fmt: skip
            entries += 32
            values += 16
            count -= 4
        if count >= 2:
            add_two(target, target_step, rows, shift, source_step, pixel, entries, values, pixels,
                    vectors)  # fmt: skip
            entries += 16
            values += 8
            count -= 2
        if count:
            add_one(target, target_step, rows, shift, source_step, pixel, entries, values, pixels,
                    vectors)  # fmt: skip

    return add


add_entries, add_entries_from_start = _adder(from_row), _adder(from_start)
lead_four, lead_two, lead_one = (row_gradients(many) for many in (4, 2, 1))


@njit
def lead_entries(target, target_step, x, x_step, rows, shift, source_step, pixel, entries, values,
                 count, sums, pixels, vectors):  # fmt: skip
    """Add what a list of entries reads, and its products with the input at `x` to its sums."""
    while count >= 4:
        lead_four(target, target_step, x, x_step, rows, shift, source_step, pixel, entries, values,
                  sums, pixels, vectors)  # fmt: skip
        entries += 32
        values += 16
        sums += 4 * BYTES_OF_SUM
        count -= 4
    if count >= 2:
        lead_two(target, target_step, x, x_step, rows, shift, source_step, pixel, entries, values,
                 sums, pixels, vectors)  # fmt: skip
        entries += 16
        values += 8
        sums += 2 * BYTES_OF_SUM
        count -= 2
    if count:
        lead_one(target, target_step, x, x_step, rows, shift, source_step, pixel, entries, values,
                 sums, pixels, vectors)  # fmt: skip


@njit
def fill(target, target_step, start, pixels, images):
    """Write `start` to all images of pixels that lie so many bytes apart."""
    for pixel in range(pixels):
        of_pixel = floats(target + pixel * target_step, images)
        for image in range(images):
            of_pixel[image] = start


@njit
def runs_of(target_step, source_step, pixels, bytes_of_pixel, vectors):
    """Return of how many runs of how many vectors a row is: one, if pixels lie side by side."""
    if target_step == source_step == bytes_of_pixel:
        return 1, pixels * vectors
    return pixels, vectors
