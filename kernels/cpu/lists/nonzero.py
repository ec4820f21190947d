"""Entries without those whose value is 0 now: the values change from step to step."""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.machine.compiling import njit


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
