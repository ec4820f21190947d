"""Lists of entries, as the inner loops walk them.

An entry is one int64: the row of the kernel that it belongs to, in the lowest bits, and how many
pixels of the ring lie between the start of that row and what the entry reads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.compiling import njit
from gemkern.kernels.cpu.pattern_lists import lists_of
from gemkern.kernels.cpu.strips import Ring, Walk
from gemkern.kernels.cpu.vectors import ROW_BITS
from gemkern.kernels.reference.pattern import Pattern


@njit
def channel_and_tap(position, first, taps):
    """Return channel (in its group) and tap of a position, for the `first` one of its output."""
    # In 32 bits a division takes half the time.
    return divmod(np.uint32(position - first), np.uint32(taps))


def lists_by_output(pattern: Pattern, walk: Walk, ring: Ring) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries by output channel, in the order of their values, and their bounds.

    Those of channel c are bounds[c] ... bounds[c + 1].
    """
    return lists_of(
        pattern,
        ("by output", walk, ring),
        lambda: _by_output(pattern.positions.numpy(), pattern.starts.numpy(), walk, ring),
    )


def lists_by_input(
    pattern: Pattern, walk: Walk, ring: Ring
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries by input channel, their numbers among the values, and their bounds.

    There is a list for each input channel and, in a channel, for each phase of the stride: pixels
    that lie a multiple of the stride apart are reached by the same taps. List n is bounds[n] ...
    bounds[n + 1].
    """
    return lists_of(
        pattern,
        ("by input", walk, ring),
        lambda: _by_input(pattern.positions.numpy(), pattern.starts.numpy(), walk, ring),
    )


@njit(cache=True)
def _by_output(positions, starts, walk, ring):
    outputs, inputs = walk.outputs, walk.inputs // walk.groups
    taps = walk.kernel_height * walk.kernel_width
    of_tap = np.empty(taps, np.int64)
    for tap in range(taps):
        row, column = divmod(tap, walk.kernel_width)
        of_tap[tap] = ((column * walk.dilation_width) << ROW_BITS) | row
    entries = np.empty(len(positions), np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            pixels = (base + np.int64(channel)) * ring.width
            entries[number] = of_tap[tap] + (pixels << ROW_BITS)
    return entries, starts.copy()


@njit(cache=True)
def _by_input(positions, starts, walk, ring):
    outputs, inputs = walk.outputs, walk.inputs // walk.groups
    taps = walk.kernel_height * walk.kernel_width
    phases = walk.stride_height * walk.stride_width
    of_tap, phase_of = np.empty(taps, np.int64), np.empty(taps, np.int64)
    for tap in range(taps):
        row, column = divmod(tap, walk.kernel_width)
        row_phase = row * walk.dilation_height % walk.stride_height
        back, column_phase = divmod(column * walk.dilation_width, walk.stride_width)
        of_tap[tap] = ((ring.left - back) << ROW_BITS) | row
        phase_of[tap] = row_phase * walk.stride_width + column_phase
    bounds = np.zeros(walk.inputs * phases + 1, np.int64)
    lists, listed = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, tap = channel_and_tap(positions[number], output * inputs * taps, taps)
            lists[number] = (base + np.int64(channel)) * phases + phase_of[tap]
            listed[number] = of_tap[tap] + ((output * ring.width) << ROW_BITS)
            bounds[lists[number] + 1] += 1
    for place in range(len(bounds) - 1):
        bounds[place + 1] += bounds[place]
    entries, numbers = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    following = bounds[:-1].copy()
    for number in range(len(positions)):
        place = following[lists[number]]
        following[lists[number]] += 1
        entries[place], numbers[place] = listed[number], number
    return entries, numbers, bounds


@njit
def has_zeros(values):
    """Return whether one of the values is 0."""
    found = False
    for value in values:
        found |= value == 0
    return found


@njit(cache=True)
def without_zeros(entries, bounds, values):
    """Return lists of the entries whose value is not 0, these values, and the bounds."""
    if not has_zeros(values):
        return entries, values, bounds
    kept, kept_values = np.empty_like(entries), np.empty_like(values)
    kept_bounds, count = np.zeros_like(bounds), 0
    for channel in range(len(bounds) - 1):
        for number in range(bounds[channel], bounds[channel + 1]):
            if values[number] != 0:
                kept[count], kept_values[count] = entries[number], values[number]
                count += 1
        kept_bounds[channel + 1] = count
    return kept, kept_values, kept_bounds


@njit(cache=True)
def zeros_last(entries, numbers, bounds, values):
    """Return lists in which the entries whose value is 0 come last, and where these begin.

    Returns: entries, values, numbers, bounds, and zeros: those of list n begin at zeros[n].
    """
    if not has_zeros(values):
        return entries, values[numbers], numbers, bounds, bounds[1:].copy()
    moved, moved_numbers = np.empty_like(entries), np.empty_like(numbers)
    moved_values, zeros = np.empty_like(values), np.empty(len(bounds) - 1, np.int64)
    for which in range(len(zeros)):
        place, last = bounds[which], bounds[which + 1]
        for wanted in (True, False):
            for number in range(bounds[which], last):
                value = values[numbers[number]]
                if (value != 0) == wanted:
                    moved[place], moved_numbers[place] = entries[number], numbers[number]
                    moved_values[place] = value
                    place += 1
            if wanted:
                zeros[which] = place
    return moved, moved_values, moved_numbers, bounds, zeros
