"""Lists of the entries that a convolution walks which reads the tensor where it lies."""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.compiling import njit
from gemkern.kernels.cpu.pattern_lists import lists_of
from gemkern.kernels.cpu.reach import Side
from gemkern.kernels.cpu.strip_lists import channel_and_tap
from gemkern.kernels.cpu.strips import Walk
from gemkern.kernels.reference.pattern import Pattern


def lists_by_target(
    pattern: Pattern, walk: Walk, rows: Side, columns: Side, backward: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries by channel of the target and place of their column, and their bounds.

    Returns:
        entries: int32 [nnz, 3], how many pixels of the source an entry leads on, the place of its
            row, and its number among the values.
        bounds: int64; those of channel c and of columns with place p begin at bounds[c * taps + p].
    """
    return lists_of(
        pattern,
        ("by target", walk, backward),
        lambda: _by_target(
            pattern.positions.numpy(), pattern.starts.numpy(), walk, rows, columns, backward
        ),
    )


def numbers_of(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Return ones and numbers of the entries, to `keep_rows` every one with its number."""
    count = len(pattern.positions)
    return lists_of(pattern, "numbers", lambda: (np.ones(count, np.float32), np.arange(count)))


@njit(cache=True)
def _by_target(positions, starts, walk, rows, columns, backward):
    outputs, inputs = walk.outputs, walk.inputs // walk.groups
    taps, size = walk.kernel_height * walk.kernel_width, len(positions)
    of_tap = np.empty((taps, 3), np.int64)
    for tap in range(taps):
        row, column = divmod(tap, walk.kernel_width)
        of_tap[tap, 0] = rows.offsets[row] * columns.sources + columns.offsets[column]
        of_tap[tap, 1], of_tap[tap, 2] = rows.places[row], columns.places[column]
    keys, found = np.empty(size, np.int64), np.empty((size, 3), np.int32)
    bounds = np.zeros((walk.inputs if backward else outputs) * columns.taps + 2, np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            target, source = output, base + np.int64(channel)
            if backward:
                target, source = source, target
            keys[number] = target * columns.taps + of_tap[tap, 2]
            found[number, 0] = source * rows.sources * columns.sources + of_tap[tap, 0]
            found[number, 1], found[number, 2] = of_tap[tap, 1], number
            bounds[keys[number] + 2] += 1
    for place in range(2, len(bounds)):
        bounds[place] += bounds[place - 1]
    entries = np.empty((size, 3), np.int32)
    for number in range(size):
        entries[bounds[keys[number] + 1]] = found[number]
        bounds[keys[number] + 1] += 1
    return entries, bounds[:-1]


@njit
def keep_rows(lists, values, factors, first, last, bytes_of_pixel, kept):
    """Copy those entries whose row has a place in first:last; now they lead so many bytes on.

    `factors` [nnz], by the number of an entry, are copied beside them. Entries whose value is 0 are
    left out.
    """
    entries, bounds = lists
    kept_entries, kept_factors, kept_bounds = kept
    count = 0
    for key in range(len(bounds) - 1):
        kept_bounds[key] = count
        for place in range(bounds[key], bounds[key + 1]):
            number = entries[place, 2]
            if first <= entries[place, 1] < last and values[number] != 0:
                kept_entries[count] = np.int64(entries[place, 0]) * bytes_of_pixel
                kept_factors[count] = factors[number]
                count += 1
    kept_bounds[len(bounds) - 1] = count
