"""A linear layer: rows are turned over in the cache, a block at a time, and entries walk those.

A block of rows of the batch, turned over, is batch-last: what an entry reads of it is one stretch
of whole vectors. Blocks stay in the cache, so that neither x nor y is written twice.

Results do not depend on the number of threads: an output, or the gradient of an input, is summed by
one thread, and the bands over which gradients of values are summed depend on sizes alone.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.engines.turning import turn, turn_padded
from gemkern.kernels.cpu.lists.nonzero import without_zeros, zeros_last
from gemkern.kernels.cpu.loops.patches import (
    add_patches_from_start,
    lead_patches_from_start,
    multiply_patches_from_start,
)
from gemkern.kernels.cpu.loops.vectors import sum_of_lanes
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import (
    BYTES,
    BYTES_OF_SUM,
    LANES,
    LANES_OF_SUM,
    aligned,
    share_of,
)
from gemkern.kernels.cpu.machine.memory import floats
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.walks.dealing import total_of
from numba import prange


@njit
def block_of(number, block, batch):
    """Return the first row of a block, its rows, and its vectors."""
    first = number * block
    count = min(block, batch - first)
    return first, count, (count + LANES - 1) // LANES


@njit
def parts_of(blocks, threads):
    """Return in how many parts each block is made, so that all threads have some."""
    return (threads + blocks - 1) // blocks


@njit
def tile_of(source, step, first, count, begin, end, block, room):
    """Return where numbers begin:end of a block of rows lie turned over: in `room`, as far apart.

    Rows lie `step` bytes apart; 0 says that all lies batch-last, where `block` is the batch.
    """
    if step == 0:
        return source + (begin * block + first) * BYTES
    turn_padded(
        source + first * step + begin * BYTES, step, count, end - begin, room, block * BYTES
    )
    return room


@njit
def multiply_share(
    thread, threads, x, x_step, batch, inputs, outputs, block, lists, bias, y, room
):  # fmt: skip
    """Make a thread's share of y [batch, outputs]."""
    entries, values, bounds = lists
    blocks = (batch + block - 1) // block
    parts = parts_of(blocks, threads)
    pixel, turned = block * BYTES, -1
    result = room + aligned((inputs if x_step else 0) * pixel)
    source = room
    for task in range(*share_of(blocks * parts, thread, threads)):
        number, part = divmod(task, parts)
        first, count, vectors = block_of(number, block, batch)
        if number != turned:
            far = block if x_step else batch
            source = tile_of(x, x_step, first, count, 0, inputs, far, room)
            turned = number
        begin, end = share_of(outputs, part, parts)
        for output in range(begin, end):
            place, count_of = bounds[output], bounds[output + 1] - bounds[output]
            made = result + (output - begin) * pixel
            value = floats(bias, outputs)[output] if bias else np.float32(0)
            add_patches_from_start(
                made, value, source, 0, 0, entries.ctypes.data + place * 8,
                values.ctypes.data + place * BYTES, count_of, vectors, True,
            )  # fmt: skip
        turn(result, pixel, end - begin, count, y + (first * outputs + begin) * BYTES,
             outputs * BYTES)  # fmt: skip


@njit(cache=True, error_model="numpy")
def multiply_alone(
    x, x_step, batch, inputs, outputs, block, values, entries, bounds, bias, y, scratch
):  # fmt: skip
    """Write y [batch, outputs] on the thread that calls.

    x_step: bytes between rows of x, or 0 where x lies batch-last, in whole vectors. entries: by
    output, how many bytes after the first input's numbers those lie that a value multiplies.
    """
    lists = without_zeros(entries, bounds, values)
    multiply_share(0, 1, x, x_step, batch, inputs, outputs, block, lists, bias, y, scratch)


@njit(parallel=True, cache=True, error_model="numpy")
def multiply(
    threads, x, x_step, batch, inputs, outputs, block, values, entries, bounds, bias, y, scratch,
    scratch_step,
):  # fmt: skip
    """Be `multiply_alone` on so many threads."""
    control = float_control()
    lists = without_zeros(entries, bounds, values)
    for thread in prange(threads):
        before = adopt(control)
        multiply_share(
            thread, threads, x, x_step, batch, inputs, outputs, block, lists, bias, y,
            scratch + thread * scratch_step,
        )  # fmt: skip
        adopt(before)


@njit
def lead_back_share(
    thread, threads, grad_y, grad_step, x, x_step, batch, inputs, outputs, block, bands, lists,
    grad_x, found, room,
):  # fmt: skip
    """Make a thread's share of the gradient of x and, in `found`, by band, of the values."""
    entries, values, _, bounds, zeros = lists
    wants_values = found.shape[1] > 0
    parts, pixel = parts_of(len(bands) - 1, threads), block * BYTES
    of_x = room + aligned((outputs if grad_step else 0) * pixel)
    result = of_x + aligned((inputs if x_step and wants_values else 0) * pixel)
    sums = np.empty((found.shape[1], LANES_OF_SUM), np.float32)
    for task in range(*share_of((len(bands) - 1) * parts, thread, threads)):
        band, part = divmod(task, parts)
        begin, end = share_of(inputs, part, parts)
        sums[bounds[begin] : bounds[end]] = 0
        for number in range(bands[band], bands[band + 1]):
            first, count, vectors = block_of(number, block, batch)
            source = tile_of(grad_y, grad_step, first, count, 0, outputs,
                             block if grad_step else batch, room)  # fmt: skip
            read, read_step = source, 0
            if wants_values:
                read = tile_of(x, x_step, first, count, begin, end, block if x_step else batch,
                               of_x)  # fmt: skip
                read_step = pixel if x_step else batch * BYTES
            made, made_step = result, pixel
            if x_step == 0:
                made, made_step = grad_x + (begin * batch + first) * BYTES, batch * BYTES
            for channel in range(begin, end):
                place, others, last = bounds[channel], zeros[channel], bounds[channel + 1]
                listed = entries.ctypes.data
                sum_at = sums.ctypes.data
                if not grad_x:
                    others = place
                elif wants_values:
                    lead_patches_from_start(
                        made, read, source, 0, 0, listed + place * 8,
                        values.ctypes.data + place * BYTES, others - place,
                        sum_at + place * BYTES_OF_SUM, vectors, True,
                    )  # fmt: skip
                else:
                    add_patches_from_start(
                        made, np.float32(0), source, 0, 0, listed + place * 8,
                        values.ctypes.data + place * BYTES, others - place, vectors, True,
                    )  # fmt: skip
                if wants_values:
                    multiply_patches_from_start(
                        read, source, 0, 0, listed + others * 8, last - others,
                        sum_at + others * BYTES_OF_SUM, vectors,
                    )  # fmt: skip
                made += made_step
                read += read_step
            if grad_x and x_step:
                turn(result, pixel, end - begin, count, grad_x + (first * inputs + begin) * BYTES,
                     inputs * BYTES)  # fmt: skip
        for entry in range(bounds[begin], bounds[end] if wants_values else bounds[begin]):
            found[band, entry] = sum_of_lanes(sums.ctypes.data + entry * BYTES_OF_SUM)


@njit(parallel=True, cache=True, error_model="numpy")
def lead_back(
    threads, grad_y, grad_step, x, x_step, batch, inputs, outputs, block, bands, values, entries,
    numbers, bounds, grad_x, grad_values, scratch, scratch_step,
):  # fmt: skip
    """Write the gradient of x, laid out as x, and that of the values; 0 and [0] leave one out.

    grad_step, x_step: as in `multiply_alone`. bands: the first block of each. entries: by input.
    """
    control = float_control()
    lists = zeros_last(entries, numbers, bounds, values)
    found = np.empty((len(bands) - 1, len(grad_values)), np.float32)
    for thread in prange(threads):
        before = adopt(control)
        lead_back_share(
            thread, threads, grad_y, grad_step, x, x_step, batch, inputs, outputs, block, bands,
            lists, grad_x, found, scratch + thread * scratch_step,
        )  # fmt: skip
        adopt(before)
    if len(grad_values):
        totals = total_of(found)
        for entry in range(len(totals)):
            grad_values[lists[2][entry]] = totals[entry]
