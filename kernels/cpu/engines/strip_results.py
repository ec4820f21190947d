"""Rows of results on their way from the cache to a tensor, and their moments."""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.loops.vector_rows import adding, size_of, totalling, writing
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.memory import doubles

write_sums, add_and_write_sums = writing(False, False), writing(True, False)
stream_sums, add_and_stream_sums = writing(False, True), writing(True, True)
write, add_and_write = adding(False, False), adding(True, False)
stream, add_and_stream = adding(False, True), adding(True, True)
total_of, total_with_added = totalling(False), totalling(True)


@njit
def write_result(shape, buffer, target, streamed):
    """Write a row of the cache to a tensor, past the caches if streamed."""
    if streamed:
        stream(shape, (buffer, target), ())
    else:
        write(shape, (buffer, target), ())


@njit
def add_and_write_result(shape, buffer, added, target, streamed):
    """Write the sum of a row of the cache and one of a tensor."""
    if streamed:
        add_and_stream(shape, (buffer, added, target), ())
    else:
        add_and_write(shape, (buffer, added, target), ())


@njit
def write_row(shape, buffer, added, y, found, streamed):
    """Write a row of results; `found`, if it is not 0, is the address of its part's moments."""
    if found == 0:
        if added == 0:
            write_result(shape, buffer, y, streamed)
        else:
            add_and_write_result(shape, buffer, added, y, streamed)
        return
    moments = doubles(found, 4)
    pivot = (np.float32(moments[1]),)
    if added == 0 and streamed:
        once, twice = stream_sums(shape, (buffer, y), pivot)
    elif added == 0:
        once, twice = write_sums(shape, (buffer, y), pivot)
    elif streamed:
        once, twice = add_and_stream_sums(shape, (buffer, added, y), pivot)
    else:
        once, twice = add_and_write_sums(shape, (buffer, added, y), pivot)
    moments[0] += size_of(shape)
    moments[2] += once
    moments[3] += twice


@njit
def pivot_of(shape, buffer, added):
    """Return the mean of a row of results."""
    if added == 0:
        (total,) = total_of(shape, (buffer,), ())
    else:
        (total,) = total_with_added(shape, (buffer, added), ())
    return total / np.float32(size_of(shape))
