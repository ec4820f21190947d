"""The entries of a pattern, sorted by what they are read for.

An entry is one int64 for each weight that remains. Its lowest bits say which row of the kernel it
belongs to, the others how many pixels of the source lie between a base and what it reads. Entries
of one target channel, or of a part of it that the same entries serve, make a list.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import product

import numpy as np
from gemkern.kernels.cpu.lists.pattern_lists import lists_of
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import ROW_BITS
from gemkern.kernels.geometry import Ring, Walk
from gemkern.kernels.reference.pattern import Pattern

# Entries, their numbers among the values, and bounds: those of list n lie at bounds[n] ...
# bounds[n + 1], in the order of their numbers.
Lists = tuple[np.ndarray, np.ndarray, np.ndarray]


def lists_of_ring(pattern: Pattern, walk: Walk, ring: Ring, backward: bool) -> Lists:
    """Return the entries as they are read from a ring, int64 [nnz] each.

    There is a list for each channel of the target and, in a channel, for each phase of its rows and
    of its columns. An entry leads on from the beginning of a row of the ring, to what the first
    column of its phase reads; of the kernel's row it keeps the tap.
    """
    rows, columns = walk.axes(backward)

    def of_taps() -> Iterator[tuple[int, int, int]]:
        for row, column in product(range(rows.taps), range(columns.taps)):
            phase = columns.phase(column)
            base = columns.base(columns.first_target(phase))
            pixels = ring.left + base + columns.offset(column)
            yield pixels, row, rows.phase(row) * columns.phases + phase

    lists = rows.phases * columns.phases
    return _lists(pattern, walk, ("ring", ring), backward, of_taps, lists, ring.width)


def lists_of_lines(pattern: Pattern, walk: Walk, backward: bool) -> Lists:
    """Return the entries as they are read where the tensor lies, int64 [nnz] each.

    There is a list for each channel of the target and, in a channel, for each place of the
    kernel's column. An entry leads on from a target's base; of the kernel's row it keeps the place.
    """
    rows, columns = walk.axes(backward)

    def of_taps() -> Iterator[tuple[int, int, int]]:
        places = [axis.taps_by_phase().index for axis in (rows, columns)]
        for row, column in product(range(rows.taps), range(columns.taps)):
            pixels = rows.offset(row) * columns.sources + columns.offset(column)
            yield pixels, places[0](row), places[1](column)

    plane = rows.sources * columns.sources
    return _lists(pattern, walk, "lines", backward, of_taps, columns.taps, plane)


def _lists(
    pattern: Pattern,
    walk: Walk,
    purpose: Hashable,
    backward: bool,
    of_taps: Callable[[], Iterator[tuple[int, int, int]]],
    lists: int,
    plane: int,
) -> Lists:
    """Return the entries by list, made once.

    Args:
        of_taps: yields for each tap the pixels that its entries lead on, the row that they keep,
            and their list among the `lists` of a channel.
        plane: how many pixels lie between channels of the source.
    """

    def make() -> Lists:
        taps = np.array(list(of_taps()), np.int64).reshape(-1, 3)
        packed = np.stack(((taps[:, 0] << ROW_BITS) | taps[:, 1], taps[:, 2]), axis=1)
        positions, starts = pattern.positions.numpy(), pattern.starts.numpy()
        return _sorted(positions, starts, walk, backward, packed, lists, plane << ROW_BITS)

    return lists_of(pattern, (purpose, walk, backward), make)


@njit(cache=True)
def _sorted(positions, starts, walk, backward, of_tap, lists, plane):
    """Return entries, numbers and bounds; `of_tap` and `plane` are those of an entry."""
    outputs, inputs, taps = walk.outputs, walk.inputs // walk.groups, len(of_tap)
    size, channels = len(positions), walk.inputs if backward else outputs
    which, found = np.empty(size, np.int64), np.empty(size, np.int64)
    bounds = np.zeros(channels * lists + 1, np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            target, source = output, base + np.int64(channel)
            if backward:
                target, source = source, target
            which[number] = target * lists + of_tap[tap, 1]
            found[number] = of_tap[tap, 0] + source * plane
            bounds[which[number] + 1] += 1
    for one in range(len(bounds) - 1):
        bounds[one + 1] += bounds[one]
    entries, numbers = np.empty(size, np.int64), np.empty(size, np.int64)
    following = bounds[:-1].copy()
    for number in range(size):
        place = following[which[number]]
        following[which[number]] += 1
        entries[place], numbers[place] = found[number], number
    return entries, numbers, bounds


@njit
def channel_and_tap(position, first, taps):
    """Return channel (in its group) and tap of a position, for the `first` one of its output."""
    # In 32 bits a division takes half the time.
    return divmod(np.uint32(position - first), np.uint32(taps))
