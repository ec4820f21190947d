"""Lists of entries, as the inner loops walk them.

An entry is one int64: the row of the kernel that it belongs to, in the lowest bits, and how many
pixels of the ring lie between the start of that row and what the entry reads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.vectors import ROW_BITS
from numba import njit


@njit
def channel_and_tap(position, first, taps):
    """Return channel (in its group) and tap of a position, for the `first` one of its output."""
    # In 32 bits a division takes half the time.
    return divmod(np.uint32(position - first), np.uint32(taps))


@njit(cache=True)
def entries_by_output(values, positions, starts, walk, ring):
    """Return the entries that are not 0, by output channel, values, and where channels begin."""
    outputs, inputs = walk.outputs, walk.inputs // walk.groups
    taps = walk.kernel_height * walk.kernel_width
    of_tap = np.empty(taps, np.int64)
    for tap in range(taps):
        row, column = divmod(tap, walk.kernel_width)
        of_tap[tap] = ((column * walk.dilation_width) << ROW_BITS) | row
    entries, listed = np.empty(len(positions), np.int64), np.empty(len(positions), np.float32)
    bounds, count = np.zeros(outputs + 1, np.int64), 0
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            if values[number] != 0:
                first = output * inputs * taps
                channel, which = channel_and_tap(positions[number], first, taps)
                pixels = (base + np.int64(channel)) * ring.width
                entries[count] = of_tap[which] + (pixels << ROW_BITS)
                listed[count] = values[number]
                count += 1
        bounds[output + 1] = count
    return entries, listed, bounds


@njit(cache=True)
def entries_by_input(values, positions, starts, walk, ring):
    """Return the entries by input channel: lists, values, numbers, where lists and zeros begin.

    There is a list for each input channel and, in a channel, for each phase of the stride: pixels
    that lie a multiple of the stride apart are reached by the same taps. In a list the entries
    whose value is 0 come last: list n is bounds[n] ... bounds[n + 1], its zeros begin at zeros[n].
    """
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
    zeros = np.zeros(walk.inputs * phases, np.int64)
    lists, listed = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    for output in range(outputs):
        base = output // (outputs // walk.groups) * inputs
        for number in range(starts[output], starts[output + 1]):
            channel, which = channel_and_tap(positions[number], output * inputs * taps, taps)
            lists[number] = (base + np.int64(channel)) * phases + phase_of[which]
            listed[number] = of_tap[which] + ((output * ring.width) << ROW_BITS)
            bounds[lists[number] + 1] += 1
            zeros[lists[number]] += values[number] != 0
    for place in range(len(zeros)):
        zeros[place] += bounds[place]
        bounds[place + 1] += bounds[place]
    entries, numbers = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    sorted_values = np.empty(len(positions), np.float32)
    following, following_zero = bounds[:-1].copy(), zeros.copy()
    for number in range(len(positions)):
        free = following if values[number] != 0 else following_zero
        place = free[lists[number]]
        free[lists[number]] += 1
        entries[place], numbers[place] = listed[number], number
        sorted_values[place] = values[number]
    return entries, sorted_values, numbers, bounds, zeros
