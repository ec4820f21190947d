"""The backward pass: strips of the output's gradient, led back to the input and to the entries.

Each step makes the products of one row of the output's gradient with what it reads of the input,
and the gradient of the rows of the input that lie over it: both need the same rows, once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.engines.strip_gradients import Input, read_input, write_grad
from gemkern.kernels.cpu.engines.strip_layout import (
    Layout,
    chunk_of,
    clear_padding,
    groups_of,
    is_plain,
    narrowed,
    next_channel,
    panel_group,
    ring_bytes,
    rooms,
    row_shape,
    slot_of,
    vectors_of,
    write_rows,
    zero,
)
from gemkern.kernels.cpu.lists.nonzero import zeros_last
from gemkern.kernels.cpu.loops.norms import (
    NormAddresses,
    affine,
    copy,
    write_norm_grads,
)
from gemkern.kernels.cpu.loops.patches import add_patches, lead_patches, multiply_patches
from gemkern.kernels.cpu.loops.stretches import (
    add_entries,
    lead_entries,
    multiply_entries,
    stretches_of,
)
from gemkern.kernels.cpu.loops.vector_rows import reading_grad
from gemkern.kernels.cpu.loops.vectors import sum_of_lanes, wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import (
    BYTES,
    BYTES_OF_SUM,
    BYTES_OF_VECTOR,
    LANES_OF_SUM,
    PATCH,
    aligned,
)
from gemkern.kernels.cpu.machine.memory import floats
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


with_moments, with_moments_written = reading_grad(False), reading_grad(True)


@njit
def read_grad_row(ring, ring_at, layout, chunk, grad, row, moments, table, written, batch):
    """Read a row of the output's gradient into the rings, with the share of the moments."""
    image = chunk[0]
    pixel, near_group = BYTES * layout.group, ring_bytes(ring, layout)
    slot = slot_of(ring_at, ring, row, pixel)
    for channel in range(ring.channels):
        ahead = next_channel(ring, channel, BYTES * batch)
        shape = row_shape(layout, chunk, batch, ring.columns, 1, near_group, ahead)
        target = slot + (channel * ring.width + ring.left) * pixel
        offset = ((channel * ring.rows + row) * ring.columns * batch + image) * BYTES
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
def lead_along_row(
    made, made_step, read, read_step, inputs, products, rows, layout, lists, number, pixels
):
    """Make the gradient of pixels of the input, so many bytes apart, and a list's products."""
    entries, values, _, bounds, zeros = lists
    first, others, last = bounds[number], zeros[number], bounds[number + 1]
    listed, pixel = entries.ctypes.data, BYTES * layout.group
    step = read_step if products else made_step
    stretches, vectors = stretches_of(made_step, step, pixel, pixels)
    if not inputs.grad_x:
        others = first
    elif products:
        lead_entries(made, made_step, read, read_step, rows, pixel, pixel, listed + first * 8,
                     values.ctypes.data + first * BYTES, others - first,
                     products + first * BYTES_OF_SUM, stretches, vectors)  # fmt: skip
    else:
        add_entries(made, made_step, np.float32(0), rows, pixel, pixel, listed + first * 8,
                    values.ctypes.data + first * BYTES, others - first, stretches,
                    vectors)  # fmt: skip
    if products:
        multiply_entries(read, read_step, rows, pixel, pixel, listed + others * 8, last - others,
                         products + others * BYTES_OF_SUM, stretches, vectors)  # fmt: skip


@njit
def lead_patch(made, read, inputs, products, rows, inside, pixel, lists, number, size, fresh):
    """Do what `lead_along_row` does for a patch."""
    entries, values, _, bounds, zeros = lists
    first, others, last = bounds[number], zeros[number], bounds[number + 1]
    listed = entries.ctypes.data
    if not inputs.grad_x:
        others = first
    elif products:
        lead_patches(made, read, rows, inside, pixel, listed + first * 8,
                     values.ctypes.data + first * BYTES, others - first,
                     products + first * BYTES_OF_SUM, size, fresh)  # fmt: skip
    else:
        add_patches(made, np.float32(0), rows, inside, pixel, listed + first * 8,
                    values.ctypes.data + first * BYTES, others - first, size, fresh)  # fmt: skip
    if products:
        multiply_patches(read, rows, inside, pixel, listed + others * 8, last - others,
                         products + others * BYTES_OF_SUM, size)  # fmt: skip


@njit
def lead_panel_back(
    inputs, products, walk, rows, layout, phases, lists, row_phase, gradients, results, begin,
    end,
):  # fmt: skip
    """Make the gradients of a row of the channels begin:end of a group, and their products."""
    stride, pixel = walk.stride_width, BYTES * layout.group
    for block in range(layout.blocks):
        for phase in range(stride):
            _, count, place = phases[phase]
            vectors = vectors_of(layout, count)
            for first in range(0, vectors, PATCH):
                inside, size = first * BYTES_OF_VECTOR, min(PATCH, vectors - first)
                for channel in range(begin, end):
                    made = ((channel - begin) * layout.span + place) * pixel + inside
                    number = (block * walk.inputs + channel) * walk.stride_height + row_phase
                    lead_patch(gradients + made, results + made, inputs, products, rows, inside,
                               pixel, lists, number * stride + phase, size,
                               block == 0)  # fmt: skip


@njit
def lead_row_back(
    row, x, norm, table, inputs, products, sums, walk, rows, ring_at, ring, layout, stretches,
    phases, offsets, lists, chunk, gradients, results,
):  # fmt: skip
    """Make the products of a row of the input, its gradient, and the sums of the norm."""
    image, batch, stride, pixel = chunk[0], walk.batch, walk.stride_width, BYTES * layout.group
    far = BYTES * batch
    ahead = walk.height * walk.width * batch * BYTES
    near_group, groups = panel_group(layout), groups_of(chunk)
    base, row_phase = divmod(row + walk.pad_height, walk.stride_height)
    if layout.blocks == 0:
        write_rows(rows, ring_at, ring, base, offsets, pixel)
    # Whole vectors that nothing is done with are read and written where they lie.
    straight = is_plain(layout, chunk) and norm.mean == 0
    direct = straight and inputs.grad_z == 0 and not inputs.streamed
    step = stride // len(stretches)
    for begin in range(0, walk.inputs, layout.panel):
        end = min(begin + layout.panel, walk.inputs)
        for channel in range(begin, end if (products or norm.mean) and not straight else begin):
            start = (channel * walk.height + row) * walk.width * batch + image
            for which in range(len(stretches)):
                first, count, place = stretches[which]
                shape = row_shape(layout, chunk, batch, count, len(stretches), near_group, ahead)
                result = results + ((channel - begin) * layout.span + place) * pixel
                read_input(shape, (start + first * batch) * BYTES, channel, x, norm, table, inputs,
                           result)  # fmt: skip
        for group in range(groups if layout.blocks else 0):
            of_group = ring_at + group * ring_bytes(ring, layout)
            write_rows(rows, of_group, ring, base, offsets, pixel)
            lead_panel_back(inputs, products, walk, rows, layout, phases, lists, row_phase,
                            gradients + group * near_group, results + group * near_group, begin,
                            end)  # fmt: skip
        for channel in range(begin, end):
            start = (channel * walk.height + row) * walk.width * batch + image
            made, made_step, read, read_step = gradients, pixel, results, pixel
            if direct:
                made, made_step = inputs.grad_x + start * BYTES, far
            if straight:
                read, read_step = x + start * BYTES, far
            for phase in range(stride if layout.blocks == 0 else 0):
                _, count, place = phases[phase]
                number = (channel * walk.stride_height + row_phase) * stride + phase
                lead_along_row(made + place * made_step, step * made_step, read + place * read_step,
                               step * read_step, inputs, products, rows, layout, lists, number,
                               count)  # fmt: skip
            for which in range(len(stretches) if inputs.grad_x and not direct else 0):
                first, count, place = stretches[which]
                shape = row_shape(layout, chunk, batch, count, len(stretches), near_group, ahead)
                near = ((channel - begin) * layout.span + place) * pixel
                write_grad(shape, (start + first * batch) * BYTES, channel, x, norm, table, inputs,
                           sums, gradients + near, results + near)  # fmt: skip


@njit
def backward_strip(
    grad_y, moments, moment_rows, written, x, norm, table, inputs, products, sums, walk, ring,
    layout, stretches, phases, offsets, chunk, first, last, share, following, lists, scratch,
):  # fmt: skip
    """Lead the steps first:last of a chunk back; `share` and `following` as in the forward pass."""
    panel = panel_group(layout) * groups_of(chunk)
    rows, gradients, results = rooms(scratch, panel)
    ring_at = results + aligned(panel)
    if first == share[0]:
        clear_padding(ring_at, ring, layout, chunk)
        # Lanes without an image read zeros.
        if chunk[3]:
            zero(results, panel // BYTES)
    for step in range(first, last):
        following = max(following, step + ring.first)
        while following <= min(step + ring.last, ring.rows - 1):
            own = share[0] <= following < share[1]
            read_grad_row(ring, ring_at, layout, chunk, grad_y, following, moments, moment_rows,
                          written if own else 0, walk.batch)  # fmt: skip
            following += 1
        below = min((step + 1) * walk.stride_height, walk.height)
        for row in range(step * walk.stride_height, below):
            lead_row_back(row, x, norm, table, inputs, products, sums, walk, rows, ring_at, ring,
                          layout, stretches, phases, offsets, lists, chunk, gradients,
                          results)  # fmt: skip
    return following


@njit(parallel=True, cache=True, error_model="numpy")
def backward(
    threads, grad_y, of_moments, written, x, of_norm, of_inputs, grad_values, grad_norm, of_walk,
    of_ring, of_layout, stretches, phases, offsets, strips, begins, values, entries, numbers,
    bounds, wants_values, scratch, scratch_step,
):  # fmt: skip
    """Write the gradients, strip by strip.

    of_moments, of_norm, of_inputs, of_walk, of_ring, of_layout: the fields of each.
    """
    control = float_control()
    moments = Moments(*of_moments)
    norm = NormAddresses(*of_norm)
    inputs = Input(*of_inputs)
    walk = Walk(*of_walk)
    ring = Ring(*of_ring)
    layout = Layout(*of_layout)
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
            of_chunk = narrowed(layout, images)
            zero(products.ctypes.data + thread * count * BYTES_OF_SUM, count * LANES_OF_SUM)
            following = backward_strip(
                grad_y, moments, moment_rows, written, x, norm, table, inputs,
                products.ctypes.data + thread * count * BYTES_OF_SUM if count else 0,
                sums[number].ctypes.data if norm.mean else 0, walk, ring, of_chunk, stretches,
                phases, offsets, chunk_of(of_chunk, image, images), first, last, (begin, end),
                following, lists, scratch + thread * scratch_step,
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
