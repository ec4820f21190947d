"""The backward pass: strips of the output's gradient, led back to the input and to the entries.

Each step makes the products of one row of the output's gradient with what it reads of the input,
and the gradient of the rows of the input that lie over it: both need the same rows, once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.engines.strip_forward import (
    clear_padding,
    next_row,
    rooms,
    row_shape,
    sizes_of,
    slot_of,
    write_rows,
    zero,
)
from gemkern.kernels.cpu.engines.strip_results import add_and_write_result, write_result
from gemkern.kernels.cpu.lists.nonzero import zeros_last
from gemkern.kernels.cpu.loops.norms import (
    NormAddresses,
    affine,
    constants_of,
    copy,
    norm_only,
    write_norm_grads,
)
from gemkern.kernels.cpu.loops.row_vectors import (
    add_entries,
    lead_entries,
    multiply_entries,
    stretches_of,
)
from gemkern.kernels.cpu.loops.vector_rows import leading_back, reading_grad
from gemkern.kernels.cpu.loops.vectors import sum_of_lanes, wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_SUM, LANES, LANES_OF_SUM, aligned
from gemkern.kernels.cpu.machine.memory import doubles, floats
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.walks.dealing import total_of
from gemkern.kernels.geometry import Ring, Walk
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
        constants = (table[channel, 0], table[channel, 1], table[channel, 2])
        if moments.mean == 0:
            copy(shape, (grad_row, target), ())
        elif written == 0:
            with_moments(shape, (grad_row, y, target), constants)
        else:
            with_moments_written(shape, (grad_row, y, target, written + offset), constants)


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
        norm_only(shape, (x + offset, target), constants_of(table, channel, norm))


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
    def lead(shape, offset, constants, x, inputs, gradient, result):
        read = (gradient, result, x + offset)
        of_z, skip = (inputs.grad_z + offset,), (inputs.grad_skip + offset,)
        made = (inputs.grad_x + offset,)
        if inputs.grad_residual == 0:
            if inputs.grad_z and inputs.grad_skip:
                return to_norm_both(shape, read + of_z + skip + made, constants)
            if inputs.grad_z:
                return to_norm_kept(shape, read + of_z + made, constants)
            if inputs.grad_skip:
                return to_norm_skip(shape, read + skip + made, constants)
            return to_norm(shape, read + made, constants)
        both = (inputs.grad_x + offset, inputs.grad_residual + offset)
        if inputs.grad_z and inputs.grad_skip:
            return to_residual_both(shape, read + of_z + skip + both, constants)
        if inputs.grad_z:
            return to_residual_kept(shape, read + of_z + both, constants)
        if inputs.grad_skip:
            return to_residual_skip(shape, read + skip + both, constants)
        return to_residual(shape, read + both, constants)

    return lead


lead, lead_past_caches = _leader(False), _leader(True)


@njit
def lead_row_through_norm(shape, offset, channel, x, norm, table, inputs, gradient, result):
    """Write the gradients of x and of the residual; return the sums of the norm.

    `gradient` is that of the norm's result, which lies at `result`.
    """
    constants = (table[channel, 0], table[channel, 1], np.float32(norm.least))
    if inputs.streamed:
        return lead_past_caches(shape, offset, constants, x, inputs, gradient, result)
    return lead(shape, offset, constants, x, inputs, gradient, result)


@njit
def lead_row_back(
    row, x, norm, table, inputs, products, sums, walk, ring_at, ring, offsets, lists, chunk, rows,
    buffer, result,
):  # fmt: skip
    """Make the products of a row of the input, its gradient, and the sums of the norm."""
    entries, values, _, bounds, zeros = lists
    image, images = chunk
    lanes, pixel = sizes_of(images)
    far, stride = BYTES * walk.batch, walk.stride_width
    shape = row_shape(images, walk.batch, lanes, walk.width, walk.height)
    # Whole vectors that nothing is done with are read and written where they lie.
    straight = images == lanes and norm.mean == 0
    base, row_phase = divmod(row + walk.pad_height, walk.stride_height)
    write_rows(rows, ring_at, ring, base, offsets, pixel)
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
            number = (channel * walk.stride_height + row_phase) * stride + phase
            begin = bounds[number]
            listed = entries.ctypes.data + begin * 8
            listed_values = values.ctypes.data + begin * 4
            others = zeros[number] if products and inputs.grad_x else begin
            made, read = target + column * target_step, source + column * source_step
            made_step, read_step = stride * target_step, stride * source_step
            pixels, vectors = stretches_of(
                made_step, read_step if products else made_step, count, pixel, lanes // LANES
            )
            if products and inputs.grad_x:
                lead_entries(made, made_step, read, read_step, rows, pixel, pixel, listed,
                             listed_values, others - begin, products + begin * BYTES_OF_SUM,
                             pixels, vectors)  # fmt: skip
            elif inputs.grad_x:
                add_entries(made, made_step, np.float32(0), rows, pixel, pixel, listed,
                            listed_values, zeros[number] - begin, pixels, vectors)  # fmt: skip
            if products:
                multiply_entries(read, read_step, rows, pixel, pixel,
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
    offsets, chunk, first, last, share, following, lists, scratch,
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
            lead_row_back(row, x, norm, table, inputs, products, sums, walk, ring_at, ring, offsets,
                          lists, chunk, rows, buffer, result)  # fmt: skip
    return following


@njit(parallel=True, cache=True, error_model="numpy")
def backward(
    threads, grad_y, of_moments, written, x, of_norm, of_inputs, grad_values, grad_norm, of_walk,
    of_ring, offsets, strips, begins, values, entries, numbers, bounds, wants_values, scratch,
    scratch_step,
):  # fmt: skip
    """Write the gradients, strip by strip.

    of_moments, of_norm, of_inputs, of_walk, of_ring: the fields of each.
    """
    control = float_control()
    moments = Moments(*of_moments)
    norm = NormAddresses(*of_norm)
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
        before = adopt(control)
        following = 0
        for place in range(begins[thread], begins[thread + 1]):
            number, image, images, first, last, begin, end = strips[place]
            if first == begin:
                following = 0
            zero(products.ctypes.data + thread * count * BYTES_OF_SUM, count * LANES_OF_SUM)
            following = backward_strip(
                grad_y, moments, moment_rows, written, x, norm, table, inputs,
                products.ctypes.data + thread * count * BYTES_OF_SUM if count else 0,
                sums[number].ctypes.data if norm.mean else 0, walk, ring, offsets,
                (image, images), first, last, (begin, end), following, lists,
                scratch + thread * scratch_step,
            )  # fmt: skip
            for entry in range(count):
                of_strips[number, entry] = sum_of_lanes(
                    products.ctypes.data + (thread * count + entry) * BYTES_OF_SUM
                )
        wait_for_stores()
        adopt(before)
    totals = total_of(of_strips)
    for entry in range(count):
        grad_values[lists[2][entry]] = totals[entry]
    if norm.mean:
        write_norm_grads(sums, norm, table, grad_norm)
