"""The entries of a pattern, sorted by what they are read for.

An entry is one int64 for each weight that remains. Its lowest bits say which row of the kernel it
belongs to, the others how many pixels of the source lie between a base and what it reads. Entries
of one target channel, or of a part of it that the same entries serve, make a list.
"""

from __future__ import annotations

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


def lists_of_ring(pattern: Pattern, walk: Walk, ring: Ring, backward: bool, blocks: int) -> Lists:
    """Return the entries as they are read from a ring, int64 [nnz] each; made once.

    There is a list for each block of the channels of the source, in it for each channel of the
    target and, in a channel, for each phase of its rows and of its columns. An entry leads on from
    the beginning of a row of the ring, to what the first column of its phase reads; of the kernel's
    row it keeps the tap.
    """
    rows, columns = walk.axes(backward)

    def make() -> Lists:
        # Of each tap its entry in the first channel, and its list among those of a channel.
        of_tap = np.empty((rows.taps * columns.taps, 2), np.int64)
        for tap, (row, column) in enumerate(product(range(rows.taps), range(columns.taps))):
            phase = columns.phase(column)
            base = columns.base(columns.first_target(phase))
            place, part = divmod(ring.left + base + columns.offset(column), ring.split)
            pixels = part * (ring.width // ring.split) + place
            of_tap[tap] = pixels << ROW_BITS | row, rows.phase(row) * columns.phases + phase
        positions, starts = pattern.positions.numpy(), pattern.starts.numpy()
        lists = rows.phases * columns.phases
        plane = ring.width << ROW_BITS
        return _sorted(positions, starts, walk, backward, of_tap, lists, plane, blocks)

    found: Lists = lists_of(pattern, (ring, walk, backward, blocks), make)
    return found


@njit(cache=True)
def _sorted(positions, starts, walk, backward, of_tap, lists, plane, blocks):
    """Return entries, numbers and bounds; `of_tap` and `plane` are those of an entry."""
    outputs, inputs, taps = walk.outputs, walk.inputs // walk.groups, len(of_tap)
    size, channels = len(positions), walk.inputs if backward else outputs
    which, found = np.empty(size, np.int64), np.empty(size, np.int64)
    bounds = np.zeros(blocks * channels * lists + 1, np.int64)
    sources = walk.outputs // walk.groups if backward else inputs
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            target, source = output, base + np.int64(channel)
            if backward:
                target, source = source, target
            block = source % sources * blocks // sources
            which[number] = (block * channels + target) * lists + of_tap[tap, 1]
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
