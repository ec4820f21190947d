"""The forward pass: strips of a normalised input, convolved by the entries that remain."""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.engines.strip_results import pivot_of, write_row
from gemkern.kernels.cpu.lists.nonzero import without_zeros
from gemkern.kernels.cpu.loops.norms import (
    NormAddresses,
    affine,
    constants_of,
    copy,
    copy_keep,
    norm_and_add,
    norm_and_add_keep,
    norm_keep,
    norm_only,
)
from gemkern.kernels.cpu.loops.row_vectors import add_entries, stretches_of
from gemkern.kernels.cpu.loops.vectors import wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, KERNEL_ROWS, LANES, aligned
from gemkern.kernels.cpu.machine.memory import doubles, floats, integers
from gemkern.kernels.cpu.machine.moments import combine
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.geometry import Ring, Walk
from numba import prange

# Of a channel in a strip: size, pivot and two sums.
BYTES_OF_MOMENTS = 32


@njit
def sizes_of(images):
    """Return the lanes of the vectors of a chunk, and the bytes of a pixel."""
    lanes = (images + LANES - 1) // LANES * LANES
    return lanes, BYTES * lanes


@njit
def clear_padding(ring_at, ring, lanes, images):
    """Write the zeros of a ring: its last slot, its padding, and lanes that hold no image."""
    pixel = BYTES * lanes
    plane = ring.channels * ring.width * pixel
    slots = ring.last - ring.first + 1
    if images < lanes:
        zero(ring_at, (slots + 1) * plane // BYTES)
        return
    zero(ring_at + slots * plane, plane // BYTES)
    for row in range(slots * ring.channels):
        start = ring_at + row * ring.width * pixel
        zero(start, ring.left * lanes)
        right = ring.left + ring.columns
        zero(start + right * pixel, (ring.width - right) * lanes)


@njit
def zero(start, size):
    """Write zeros to float32 [size]."""
    target = floats(start, size)
    for i in range(size):
        target[i] = 0


@njit
def rooms(scratch, floats_of_row):
    """Return where the addresses of rows, a row of results and a ring lie."""
    buffer = scratch + 8 * KERNEL_ROWS
    return scratch, buffer, buffer + aligned(BYTES * floats_of_row)


@njit
def slot_of(ring_at, ring, row, pixel):
    """Return where a row of the tensor lies in its ring: in the slot of zeros if outside."""
    slots = ring.last - ring.first + 1
    slot = row % slots if 0 <= row < ring.rows else slots
    return ring_at + slot * ring.channels * ring.width * pixel


@njit
def write_rows(rows, ring_at, ring, base, offsets, pixel):
    """Write the addresses of the rows of a ring that the rows of a kernel lead to from a base."""
    addresses = integers(rows, len(offsets))
    for tap in range(len(offsets)):
        addresses[tap] = slot_of(ring_at, ring, base + offsets[tap], pixel)


@njit
def row_shape(images, batch, lanes, columns, rows):
    """Return the shape of a row of a chunk, for the loops over rows.

    A row is one stretch where the chunk is the batch. What is read next is the same row of the next
    channel, of `rows` rows.
    """
    near, far = BYTES * lanes, BYTES * batch
    ahead = rows * columns * far
    if images == batch == lanes:
        return 1, columns * lanes, near, far, ahead
    return columns, images, near, far, ahead


@njit
def next_row(shape, ring, far):
    """Return the shape of a row of the last channel: the next row begins with the first one."""
    ahead = (1 - (ring.channels - 1) * ring.rows) * ring.columns * far
    return shape[0], shape[1], shape[2], shape[3], ahead


@njit
def read_row(ring, slot, tensor, row, norm, table, z, batch, image, images, lanes):
    """Read a row of every channel into a slot, normalised if there is a norm; keep it in z, if."""
    far, near = BYTES * batch, BYTES * lanes
    shape = row_shape(images, batch, lanes, ring.columns, ring.rows)
    for channel in range(ring.channels):
        offset = ((channel * ring.rows + row) * ring.columns * batch + image) * BYTES
        target = slot + (channel * ring.width + ring.left) * near
        if channel == ring.channels - 1:
            shape = next_row(shape, ring, far)
        x = tensor + offset
        if norm.mean == 0:
            if z == 0:
                copy(shape, (x, target), ())
            else:
                copy_keep(shape, (x, target, z + offset), ())
            continue
        constants = constants_of(table, channel, norm)
        if norm.residual == 0:
            if z == 0:
                norm_only(shape, (x, target), constants)
            else:
                norm_keep(shape, (x, target, z + offset), constants)
        elif z == 0:
            norm_and_add(shape, (x, norm.residual + offset, target), constants)
        else:
            norm_and_add_keep(shape, (x, norm.residual + offset, target, z + offset), constants)


@njit
def forward_strip(
    x, norm, table, z, y, added, bias, moments, walk, ring, offsets, chunk, first, last, share,
    following, lists, scratch, streamed,
):  # fmt: skip
    """Write what the steps first:last make of a chunk's output; return which row follows.

    The rows before `following` have been read, those in reach are in the ring. `share` is which
    steps the thread makes in turn: what they read first is theirs to keep.
    """
    entries, values, bounds = lists
    image, images = chunk
    lanes, pixel = sizes_of(images)
    outputs, columns = walk.outputs, walk.out_width
    far = BYTES * walk.batch
    shape = row_shape(images, walk.batch, lanes, columns, walk.out_height)
    rows, buffer, ring_at = rooms(scratch, columns * lanes)
    # Whole vectors that nothing is done with go where they belong at once.
    straight = images == lanes and added == 0 and moments == 0 and not streamed
    if first == share[0]:
        clear_padding(ring_at, ring, lanes, images)
    for row in range(first, last):
        following = max(following, row * ring.step + ring.first)
        while following <= min(row * ring.step + ring.last, ring.rows - 1):
            own = share[0] * ring.step <= following < share[1] * ring.step
            read_row(ring, slot_of(ring_at, ring, following, pixel), x, following, norm, table,
                     z if own else 0, walk.batch, image, images, lanes)  # fmt: skip
            following += 1
        if row >= walk.out_height:
            continue
        base = row * walk.stride_height - walk.pad_height
        write_rows(rows, ring_at, ring, base, offsets, pixel)
        for output in range(outputs):
            start = floats(bias, outputs)[output] if bias else np.float32(0)
            offset = ((output * walk.out_height + row) * columns * walk.batch + image) * BYTES
            target, target_step = (y + offset, far) if straight else (buffer, pixel)
            step = walk.stride_width * pixel
            pixels, vectors = stretches_of(target_step, step, columns, pixel, lanes // LANES)
            add_entries(target, target_step, start, rows, step, pixel,
                        entries.ctypes.data + bounds[output] * 8,
                        values.ctypes.data + bounds[output] * BYTES,
                        bounds[output + 1] - bounds[output], pixels, vectors)  # fmt: skip
            if straight:
                continue
            found = moments + output * BYTES_OF_MOMENTS if moments else 0
            more = added + offset if added else 0
            if found and row == first:
                doubles(found, 4)[1] = pivot_of(shape, buffer, more)
            write_row(shape, buffer, more, y + offset, found, streamed)
    return following


@njit(parallel=True, cache=True, error_model="numpy")
def forward(
    threads, x, of_norm, z, y, added, bias, mean, var, of_walk, of_ring, offsets, strips, begins,
    values, entries, bounds, scratch, scratch_step, streamed,
):  # fmt: skip
    """Write the output, past the caches if streamed, and its moments if there is room for them.

    of_norm, of_walk, of_ring: the fields of each.
    """
    control = float_control()
    norm = NormAddresses(*of_norm)
    walk = Walk(*of_walk)
    ring = Ring(*of_ring)
    lists = without_zeros(entries, bounds, values)
    table = affine(norm, ring.channels)
    moments = np.zeros((len(strips) if mean else 0, walk.outputs, 4))
    for thread in prange(threads):
        before = adopt(control)
        following = 0
        for place in range(begins[thread], begins[thread + 1]):
            number, image, images, first, last, begin, end = strips[place]
            if first == begin:
                following = 0
            following = forward_strip(
                x, norm, table, z, y, added, bias,
                moments[number].ctypes.data if mean else 0, walk, ring, offsets, (image, images),
                first, last, (begin, end), following, lists, scratch + thread * scratch_step,
                streamed,
            )  # fmt: skip
        wait_for_stores()
        adopt(before)
    if mean:
        combine(moments, mean, var)
