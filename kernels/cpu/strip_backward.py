"""The backward pass: strips of the output's gradient, led back to the input and to the entries.

Each step makes the products of one row of the output's gradient with what it reads of the input,
and the gradient of the rows of the input that lie over it: both need the same rows, once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.compiling import njit
from gemkern.kernels.cpu.dealing import total_of
from gemkern.kernels.cpu.memory import doubles, floats, integers
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.row_vectors import (
    add_entries,
    lead_entries,
    multiply_entries,
    runs_of,
)
from gemkern.kernels.cpu.strip_forward import (
    BYTES,
    Norm,
    affine,
    aligned,
    clear_padding,
    copy,
    next_row,
    norm_only,
    numbers_of,
    rooms,
    row_shape,
    sizes_of,
    slot_of,
    zero,
)
from gemkern.kernels.cpu.strip_lists import zeros_last
from gemkern.kernels.cpu.strip_results import add_and_write_result, write_result
from gemkern.kernels.cpu.strips import Ring, Walk
from gemkern.kernels.cpu.vector_rows import leading_back, reading_grad
from gemkern.kernels.cpu.vectors import (
    BYTES_OF_SUM,
    LANES,
    LANES_OF_SUM,
    sum_of_lanes,
    wait_for_stores,
)
from numba import prange


class Moments(NamedTuple):
    """What a gradient owes to the mean and the variance of the output; addresses or 0.

    grad_mean, grad_var, mean: float32 [channels]; y: the output.
    """

    grad_mean: int
    grad_var: int
    mean: int
    y: int


class Input(NamedTuple):
    """Where the gradient of the input comes from and goes; addresses of tensors like x, or 0.

    z: the convolution's input, if it was kept; grad_z, grad_skip: gradients that it and x have from
    elsewhere; grad_residual, grad_x: what is written, past the caches if streamed.
    """

    z: int
    grad_z: int
    grad_skip: int
    grad_residual: int
    grad_x: int
    streamed: bool


with_moments, with_moments_written = reading_grad(False), reading_grad(True)


@njit
def read_grad_row(ring, slot, grad, row, moments, table, written, batch, image, images, lanes):
    """Read a row of the output's gradient into a slot, with the share of the moments."""
    far, near = BYTES * batch, BYTES * lanes
    shape = row_shape(images, batch, lanes, ring.columns, ring.rows)
    for channel in range(ring.channels):
        offset = ((channel * ring.rows + row) * ring.columns * batch + image) * BYTES
        target = slot + (channel * ring.width + ring.left) * near
        if channel == ring.channels - 1:
            shape = next_row(shape, ring, far)
        grad_row, y = grad + offset, moments.y + offset
        numbers = (table[channel, 0], table[channel, 1], table[channel, 2])
        if moments.mean == 0:
            copy(shape, (grad_row, target), ())
        elif written == 0:
            with_moments(shape, (grad_row, y, target), numbers)
        else:
            with_moments_written(shape, (grad_row, y, target, written + offset), numbers)


@njit
def moment_table(moments, walk):
    """Return float32 [outputs, 3]: the constant, the slope and the mean of each channel."""
    outputs = walk.outputs
    table = np.empty((outputs, 3), np.float32)
    if moments.mean:
        count = walk.batch * walk.out_height * walk.out_width
        for output in range(outputs):
            table[output, 0] = floats(moments.grad_mean, outputs)[output] / count
            table[output, 1] = 2.0 * floats(moments.grad_var, outputs)[output] / count
            table[output, 2] = floats(moments.mean, outputs)[output]
    return table


@njit
def read_input(shape, offset, channel, x, norm, table, inputs, target):
    """Read a row of the convolution's input: as it was kept, or normalised again."""
    if inputs.z:
        copy(shape, (inputs.z + offset, target), ())
    elif norm.mean == 0:
        copy(shape, (x + offset, target), ())
    else:
        norm_only(shape, (x + offset, target), numbers_of(table, channel, norm))


def _leader(streamed):
    """Return the function that leads the gradient of a norm's result back through the norm."""
    to_norm = leading_back(False, False, False, streamed)
    to_norm_kept = leading_back(True, False, False, streamed)
    to_norm_skip = leading_back(False, True, False, streamed)
    to_norm_both = leading_back(True, True, False, streamed)
    to_residual = leading_back(False, False, True, streamed)
    to_residual_kept = leading_back(True, False, True, streamed)
    to_residual_skip = leading_back(False, True, True, streamed)
    to_residual_both = leading_back(True, True, True, streamed)

    @njit
    def lead(shape, offset, numbers, x, inputs, gradient, result):
        read = (gradient, result, x + offset)
        of_z, skip = (inputs.grad_z + offset,), (inputs.grad_skip + offset,)
        made = (inputs.grad_x + offset,)
        if inputs.grad_residual == 0:
            if inputs.grad_z and inputs.grad_skip:
                return to_norm_both(shape, read + of_z + skip + made, numbers)
            if inputs.grad_z:
                return to_norm_kept(shape, read + of_z + made, numbers)
            if inputs.grad_skip:
                return to_norm_skip(shape, read + skip + made, numbers)
            return to_norm(shape, read + made, numbers)
        both = (inputs.grad_x + offset, inputs.grad_residual + offset)
        if inputs.grad_z and inputs.grad_skip:
            return to_residual_both(shape, read + of_z + skip + both, numbers)
        if inputs.grad_z:
            return to_residual_kept(shape, read + of_z + both, numbers)
        if inputs.grad_skip:
            return to_residual_skip(shape, read + skip + both, numbers)
        return to_residual(shape, read + both, numbers)

    return lead


lead, lead_past_caches = _leader(False), _leader(True)


@njit
def lead_row_through_norm(shape, offset, channel, x, norm, table, inputs, gradient, result):
    """Write the gradients of x and of the residual; return the sums of the norm.

    `gradient` is that of the norm's result, which lies at `result`.
    """
    numbers = (table[channel, 0], table[channel, 1], np.float32(norm.least))
    if inputs.streamed:
        return lead_past_caches(shape, offset, numbers, x, inputs, gradient, result)
    return lead(shape, offset, numbers, x, inputs, gradient, result)


@njit
def reach_back(rows, ring_at, ring, row, walk, pixel):
    """Write the addresses of the rows of the output that read a row of the input, by tap."""
    places = integers(rows, walk.kernel_height)
    for tap in range(walk.kernel_height):
        place = (row + walk.pad_height - tap * walk.dilation_height) // walk.stride_height
        places[tap] = slot_of(ring_at, ring, place, pixel)


@njit
def lead_row_back(
    row, x, norm, table, inputs, products, sums, walk, ring_at, ring, lists, chunk, rows, buffer,
    result,
):  # fmt: skip
    """Make the products of a row of the input, its gradient, and the sums of the norm."""
    entries, values, _, bounds, zeros = lists
    image, images = chunk
    lanes, pixel = sizes_of(images)
    far, stride = BYTES * walk.batch, walk.stride_width
    shape = row_shape(images, walk.batch, lanes, walk.width, walk.height)
    # Whole vectors that nothing is done with are read and written where they lie.
    straight = images == lanes and norm.mean == 0
    row_phase = (row + walk.pad_height) % walk.stride_height
    reach_back(rows, ring_at, ring, row, walk, pixel)
    for channel in range(walk.inputs):
        offset = ((channel * walk.height + row) * walk.width * walk.batch + image) * BYTES
        source, source_step = (x + offset, far) if straight else (result, pixel)
        target, target_step = buffer, pixel
        direct = straight and inputs.grad_z == 0 and not inputs.streamed
        if direct:
            target, target_step = inputs.grad_x + offset, far
        if not straight and (products or norm.mean):
            read_input(shape, offset, channel, x, norm, table, inputs, result)
        for phase in range(stride):
            column = (phase - walk.pad_width) % stride
            count = (walk.width - column + stride - 1) // stride
            shift = (column + walk.pad_width) // stride * pixel
            number = (channel * walk.stride_height + row_phase) * stride + phase
            begin = bounds[number]
            listed = entries.ctypes.data + begin * 8
            listed_values = values.ctypes.data + begin * 4
            others = zeros[number] if products and inputs.grad_x else begin
            made, read = target + column * target_step, source + column * source_step
            made_step, read_step = stride * target_step, stride * source_step
            pixels, vectors = runs_of(made_step, read_step if products else made_step, count, pixel,
                                      lanes // LANES)  # fmt: skip
            if products and inputs.grad_x:
                lead_entries(made, made_step, read, read_step, rows, shift, pixel, pixel, listed,
                             listed_values, others - begin, products + begin * BYTES_OF_SUM,
                             pixels, vectors)  # fmt: skip
            elif inputs.grad_x:
                add_entries(made, made_step, np.float32(0), rows, shift, pixel, pixel, listed,
                            listed_values, zeros[number] - begin, pixels, vectors)  # fmt: skip
            if products:
                multiply_entries(read, read_step, rows, shift, pixel, pixel,
                                 entries.ctypes.data + others * 8, bounds[number + 1] - others,
                                 products + others * BYTES_OF_SUM, pixels, vectors)  # fmt: skip
        if inputs.grad_x and norm.mean:
            found = doubles(sums + channel * 16, 2)
            once, twice = lead_row_through_norm(shape, offset, channel, x, norm, table, inputs,
                                                buffer, result)  # fmt: skip
            found[0] += once
            found[1] += twice
        elif inputs.grad_x and inputs.grad_z:
            add_and_write_result(shape, buffer, inputs.grad_z + offset, inputs.grad_x + offset,
                                 inputs.streamed)  # fmt: skip
        elif inputs.grad_x and not direct:
            write_result(shape, buffer, inputs.grad_x + offset, inputs.streamed)


@njit
def backward_strip(
    grad_y, moments, moment_rows, written, x, norm, table, inputs, products, sums, walk, ring,
    chunk, first, last, share, following, lists, scratch,
):  # fmt: skip
    """Lead the steps first:last of a chunk back; `share` and `following` as in the forward pass."""
    image, images = chunk
    lanes, pixel = sizes_of(images)
    rows, buffer, result = rooms(scratch, walk.width * lanes)
    ring_at = result + aligned(walk.width * pixel)
    if first == share[0]:
        clear_padding(ring_at, ring, lanes, images)
    if images < lanes:
        zero(result, walk.width * lanes)
    for step in range(first, last):
        following = max(following, step + ring.first)
        while following <= min(step + ring.last, ring.rows - 1):
            own = share[0] <= following < share[1]
            read_grad_row(
                ring, slot_of(ring_at, ring, following, pixel), grad_y, following, moments,
                moment_rows, written if own else 0, walk.batch, image, images, lanes,
            )  # fmt: skip
            following += 1
        below = min((step + 1) * walk.stride_height, walk.height)
        for row in range(step * walk.stride_height, below):
            lead_row_back(row, x, norm, table, inputs, products, sums, walk, ring_at, ring, lists,
                          chunk, rows, buffer, result)  # fmt: skip
    return following


@njit
def write_norm_grads(sums, norm, table, grad_norm):
    """Write the gradients of mean, variance, weight and bias from sums [parts, channels, 2].

    grad_norm: their addresses, 0 where one is not wanted.
    """
    channels = sums.shape[1]
    for channel in range(channels):
        once, twice = 0.0, 0.0
        for part in range(len(sums)):
            once += sums[part, channel, 0]
            twice += sums[part, channel, 1]
        scale, inverse = table[channel, 1], table[channel, 3]
        made = (-once * scale, -0.5 * twice * scale * inverse * inverse, twice * inverse, once)
        for which in range(4):
            if grad_norm[which]:
                floats(grad_norm[which], channels)[channel] = made[which]


@njit(parallel=True, cache=True, error_model="numpy")
def backward(
    threads, grad_y, of_moments, written, x, of_norm, of_inputs, grad_values, grad_norm, of_walk,
    of_ring, strips, begins, values, entries, numbers, bounds, wants_values, scratch, scratch_step,
):  # fmt: skip
    """Write the gradients, strip by strip.

    of_moments, of_norm, of_inputs, of_walk, of_ring: the fields of each.
    """
    control = float_control()
    moments = Moments(*of_moments)
    norm = Norm(*of_norm)
    inputs = Input(*of_inputs)
    walk = Walk(*of_walk)
    ring = Ring(*of_ring)
    lists = zeros_last(entries, numbers, bounds, values)
    table, moment_rows = affine(norm, walk.inputs), moment_table(moments, walk)
    count = len(entries) if wants_values else 0
    of_strips = np.empty((len(strips), count), np.float32)
    products = np.empty((threads, count, LANES_OF_SUM), np.float32)
    sums = np.zeros((len(strips) if norm.mean else 0, walk.inputs, 2))
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        following = 0
        for place in range(begins[thread], begins[thread + 1]):
            number, image, images, first, last, begin, end = strips[place]
            if first == begin:
                following = 0
            zero(products.ctypes.data + thread * count * BYTES_OF_SUM, count * LANES_OF_SUM)
            following = backward_strip(
                grad_y, moments, moment_rows, written, x, norm, table, inputs,
                products.ctypes.data + thread * count * BYTES_OF_SUM if count else 0,
                sums[number].ctypes.data if norm.mean else 0, walk, ring,
                (image, images), first, last, (begin, end), following, lists,
                scratch + thread * scratch_step,
            )  # fmt: skip
            for entry in range(count):
                of_strips[number, entry] = sum_of_lanes(
                    products.ctypes.data + (thread * count + entry) * BYTES_OF_SUM
                )
        wait_for_stores()
        set_float_control(before)
    totals = total_of(of_strips)
    for entry in range(count):
        grad_values[lists[2][entry]] = totals[entry]
    if norm.mean:
        write_norm_grads(sums, norm, table, grad_norm)
