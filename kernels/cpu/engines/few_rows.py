"""A linear layer of few rows: those of a feature are one short vector.

Vectors are as short as there are few rows: wider ones would be mostly empty. Backward, entries are
walked output by output, in the order in which values lie in memory: each adds to the gradient of
what it reads, and its own gradient is known at once. Parts of the outputs, as many as sizes say,
have gradients of x of their own, which are summed in the order of the parts.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.engines.turning import turn, turn_padded
from gemkern.kernels.cpu.loops.one_vector import (
    add_1,
    add_4,
    add_8,
    add_16,
    lead_1,
    lead_8,
    lead_16,
    lead_32,
    lead_64,
)
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import (
    BYTES,
    BYTES_OF_VECTOR,
    LANES,
    LINE,
    aligned,
    share_of,
)
from gemkern.kernels.cpu.machine.memory import floats, integers
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from numba import prange


@njit
def multiply_outputs(begin, end, lanes, x, outputs, entries, values, bounds, bias, made):
    """Make the outputs begin:end of as many rows as lanes, which lie side by side."""
    places = integers(bounds, outputs + 1)
    for output in range(begin, end):
        place = places[output]
        count = places[output + 1] - place
        start = floats(bias, outputs)[output] if bias else np.float32(0)
        listed, value = entries + place * 8, values + place * BYTES
        target = made + output * lanes * BYTES
        if lanes == 1:
            add_1(target, start, x, listed, value, count)
        elif lanes == 4:
            add_4(target, start, x, listed, value, count)
        elif lanes == 8:
            add_8(target, start, x, listed, value, count)
        else:
            add_16(target, start, x, listed, value, count)


@njit
def clear(address, count):
    """Write so many zeros."""
    floats(address, count)[:] = 0


@njit
def laid(x, x_step, batch, inputs, lanes, room):
    """Return where the rows of x lie side by side: in `room`, unless they do where they are."""
    if lanes == 1 or x_step == 0:
        return x
    turn_padded(x, x_step, batch, inputs, room, lanes * BYTES)
    written = (batch + LANES - 1) // LANES * LANES
    for feature in range(inputs if written < lanes else 0):
        clear(room + (feature * lanes + written) * BYTES, lanes - written)
    return room


@njit(cache=True, error_model="numpy")
def multiply_few_alone(
    batch, lanes, x, x_step, inputs, outputs, entries, values, bounds, bias, y, room
):  # fmt: skip
    """Write y [batch, outputs] on the thread that calls; tensors are addresses.

    lanes: 1, 4, 8 or 16, the rows or more. x_step: bytes between rows, or 0 where as many of them
    lie batch-last. room: `room_forward` bytes, at the start of a cache line.
    """
    read = laid(x, x_step, batch, inputs, lanes, room)
    made = y if lanes == 1 else room + aligned(inputs * lanes * BYTES + BYTES_OF_VECTOR)
    multiply_outputs(0, outputs, lanes, read, outputs, entries, values, bounds, bias, made)
    if lanes > 1:
        turn(made, lanes * BYTES, outputs, batch, y, outputs * BYTES)


@njit(parallel=True, cache=True, error_model="numpy")
def multiply_few(
    threads, batch, lanes, x, x_step, inputs, outputs, entries, values, bounds, bias, y, room
):  # fmt: skip
    """Be `multiply_few_alone` on so many threads."""
    control = float_control()
    read = laid(x, x_step, batch, inputs, lanes, room)
    made = y if lanes == 1 else room + aligned(inputs * lanes * BYTES + BYTES_OF_VECTOR)
    for thread in prange(threads):
        before = adopt(control)
        begin, end = share_of(outputs, thread, threads)
        multiply_outputs(begin, end, lanes, read, outputs, entries, values, bounds, bias, made)
        adopt(before)
    if lanes > 1:
        turn(made, lanes * BYTES, outputs, batch, y, outputs * BYTES)


@njit
def lead_outputs_back(
    begin, end, lanes, grad_y, x, outputs, entries, values, bounds, grad_x, grad_values
):  # fmt: skip
    """Lead the gradients of the outputs begin:end back; rows of a feature lie side by side."""
    places = integers(bounds, outputs + 1)
    for output in range(begin, end):
        place = places[output]
        count = places[output + 1] - place
        grad, listed = grad_y + output * lanes * BYTES, entries + place * 8
        value, found = values + place * BYTES, grad_values + place * BYTES
        if lanes == 1:
            lead_1(grad, x, grad_x, listed, value, count, found)
        elif lanes == 8:
            lead_8(grad, x, grad_x, listed, value, count, found)
        elif lanes == 16:
            lead_16(grad, x, grad_x, listed, value, count, found)
        elif lanes == 32:
            lead_32(grad, x, grad_x, listed, value, count, found)
        else:
            lead_64(grad, x, grad_x, listed, value, count, found)


@njit
def sum_parts(address, count, parts):
    """Add the numbers of all parts to those of the first."""
    total = floats(address, count)
    for part in range(1, parts):
        total += floats(address + part * count * BYTES, count)


@njit(parallel=True, cache=True, error_model="numpy")
def lead_few_back(
    threads, parts, batch, lanes, inputs, outputs, grad_y, grad_step, x, x_step, entries, values,
    bounds, grad_x, grad_values, room,
):  # fmt: skip
    """Write the gradient of x, contiguous, unless its address is 0, and that of the values.

    lanes: 1, 8, 16, 32 or 64. grad_step, x_step: as in `multiply_few_alone`.
    room: `room_backward` bytes, at the start of a cache line.
    """
    control = float_control()
    pixel = lanes * BYTES
    made, size = room, inputs * pixel
    read = laid(x, x_step, batch, inputs, lanes, room + parts * size)
    led = laid(grad_y, grad_step, batch, outputs, lanes, room + (parts + 1) * size)
    clear(made, parts * size // BYTES)
    for thread in prange(threads):
        before = adopt(control)
        for part in range(*share_of(parts, thread, threads)):
            begin, end = share_of(outputs, part, parts)
            lead_outputs_back(begin, end, lanes, led, read, outputs, entries, values, bounds,
                              made + part * size, grad_values)  # fmt: skip
        adopt(before)
    sum_parts(made, size // BYTES, parts)
    if grad_x:
        turn(made, pixel, inputs, batch, grad_x, inputs * BYTES)


def room_forward(lanes: int, inputs: int, outputs: int) -> int:
    """Return how many bytes `multiply_few` works in."""
    return BYTES * lanes * (inputs + outputs) + BYTES_OF_VECTOR + LINE


def room_backward(parts: int, lanes: int, inputs: int, outputs: int) -> int:
    """Return how many bytes `lead_few_back` works in, whole lines of the cache."""
    size = BYTES * lanes * ((parts + 1) * inputs + outputs) + BYTES_OF_VECTOR
    return -(-size // LINE) * LINE
