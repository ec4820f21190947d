"""The forward pass: strips of a normalised input, convolved by the entries that remain."""

from __future__ import annotations

import numpy as np
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
)
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
from gemkern.kernels.cpu.loops.patches import add_patches
from gemkern.kernels.cpu.loops.stretches import add_entries, stretches_of
from gemkern.kernels.cpu.loops.vectors import wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_VECTOR, PATCH
from gemkern.kernels.cpu.machine.memory import doubles, floats
from gemkern.kernels.cpu.machine.moments import combine
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.geometry import Ring, Walk
from numba import prange

# Of a channel in a strip: size, pivot and two sums.
BYTES_OF_MOMENTS = 32


@njit
def read_stretch(shape, offset, target, channel, tensor, norm, table, z):
    """Read a part of a row, normalised if there is a norm; keep it in z, if."""
    x = tensor + offset
    if norm.mean == 0:
        if z == 0:
            copy(shape, (x, target), ())
        else:
            copy_keep(shape, (x, target, z + offset), ())
        return
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
def read_row(ring, ring_at, layout, stretches, chunk, tensor, row, norm, table, z, batch):
    """Read a row of every channel into the rings of all groups."""
    image = chunk[0]
    pixel, near_group = BYTES * layout.group, ring_bytes(ring, layout)
    slot = slot_of(ring_at, ring, row, pixel)
    for channel in range(ring.channels):
        start = (channel * ring.rows + row) * ring.columns * batch + image
        ahead = next_channel(ring, channel, BYTES * batch)
        for which in range(ring.split):
            first, count, place = stretches[which]
            shape = row_shape(layout, chunk, batch, count, ring.split, near_group, ahead)
            target = slot + (channel * ring.width + place) * pixel
            offset = (start + first * batch) * BYTES
            read_stretch(shape, offset, target, channel, tensor, norm, table, z)


@njit
def add_along_row(made, made_step, output, walk, bias, rows, step, layout, lists):
    """Write a row of an output, in pixels `made_step` bytes apart, by short lists.

    What is read for neighbours lies `step` bytes apart.
    """
    entries, values, bounds = lists
    pixel = BYTES * layout.group
    start = floats(bias, walk.outputs)[output] if bias else np.float32(0)
    place, count = bounds[output], bounds[output + 1] - bounds[output]
    stretches, vectors = stretches_of(made_step, step, pixel, walk.out_width)
    add_entries(made, made_step, start, rows, step, pixel, entries.ctypes.data + place * 8,
                values.ctypes.data + place * BYTES, count, stretches, vectors)  # fmt: skip


@njit
def add_panel(panel, walk, bias, rows, layout, lists, begin, end):
    """Write a row of the outputs begin:end of a group to its panel, by long lists."""
    entries, values, bounds = lists
    pixel, vectors = BYTES * layout.group, vectors_of(layout, walk.out_width)
    for block in range(layout.blocks):
        for first in range(0, vectors, PATCH):
            inside, size = first * BYTES_OF_VECTOR, min(PATCH, vectors - first)
            for output in range(begin, end):
                start = floats(bias, walk.outputs)[output] if bias else np.float32(0)
                number = block * walk.outputs + output
                place, count = bounds[number], bounds[number + 1] - bounds[number]
                add_patches(panel + (output - begin) * layout.span * pixel + inside, start, rows,
                            inside, pixel, entries.ctypes.data + place * 8,
                            values.ctypes.data + place * BYTES, count, size,
                            block == 0)  # fmt: skip


@njit
def forward_strip(
    x, norm, table, z, y, added, bias, moments, walk, ring, layout, stretches, offsets, chunk,
    first, last, share, following, lists, scratch, streamed,
):  # fmt: skip
    """Write what the steps first:last make of a chunk's output; return which row follows.

    The rows before `following` have been read, those in reach are in the ring. `share` is which
    steps the thread makes in turn: what they read first is theirs to keep.
    """
    image, columns, pixel = chunk[0], walk.out_width, BYTES * layout.group
    groups = groups_of(chunk)
    near_group, channel = panel_group(layout), walk.out_height * columns * walk.batch
    rows, panel, ring_at = rooms(scratch, groups * near_group)
    shape = row_shape(layout, chunk, walk.batch, columns, 1, near_group, channel * BYTES)
    step = walk.stride_width // ring.split * pixel
    # Whole vectors that nothing is done with go where they belong at once.
    straight = is_plain(layout, chunk) and added == 0 and moments == 0 and not streamed
    if first == share[0]:
        clear_padding(ring_at, ring, layout, chunk)
    for row in range(first, last):
        following = max(following, row * ring.step + ring.first)
        while following <= min(row * ring.step + ring.last, ring.rows - 1):
            own = share[0] * ring.step <= following < share[1] * ring.step
            read_row(ring, ring_at, layout, stretches, chunk, x, following, norm, table,
                     z if own else 0, walk.batch)  # fmt: skip
            following += 1
        if row >= walk.out_height:
            continue
        base = row * walk.stride_height - walk.pad_height
        if layout.blocks == 0:
            write_rows(rows, ring_at, ring, base, offsets, pixel)
        for begin in range(0, walk.outputs, layout.panel):
            end = min(begin + layout.panel, walk.outputs)
            for group in range(groups if layout.blocks else 0):
                of_group = ring_at + group * ring_bytes(ring, layout)
                write_rows(rows, of_group, ring, base, offsets, pixel)
                add_panel(panel + group * near_group, walk, bias, rows, layout, lists, begin, end)
            for output in range(begin, end):
                result = panel + (output - begin) * layout.span * pixel
                offset = (output * channel + row * columns * walk.batch + image) * BYTES
                if straight:
                    add_along_row(y + offset, BYTES * walk.batch, output, walk, bias, rows, step,
                                  layout, lists)  # fmt: skip
                    continue
                if layout.blocks == 0:
                    add_along_row(result, pixel, output, walk, bias, rows, step, layout, lists)
                found = moments + output * BYTES_OF_MOMENTS if moments else 0
                more = added + offset if added else 0
                if found and row == first:
                    doubles(found, 4)[1] = pivot_of(shape, result, more)
                write_row(shape, result, more, y + offset, found, streamed)
    return following


@njit(parallel=True, cache=True, error_model="numpy")
def forward(
    threads, x, of_norm, z, y, added, bias, mean, var, of_walk, of_ring, of_layout, stretches,
    offsets, strips, begins, values, entries, numbers, bounds, scratch, scratch_step, streamed,
):  # fmt: skip
    """Write the output, past the caches if streamed, and its moments if there is room for them.

    of_norm, of_walk, of_ring, of_layout: the fields of each.
    """
    control = float_control()
    norm = NormAddresses(*of_norm)
    walk = Walk(*of_walk)
    ring = Ring(*of_ring)
    layout = Layout(*of_layout)
    # Of a single block, entry by entry the number is the place.
    lists = without_zeros(entries, bounds, values[numbers] if layout.blocks > 1 else values)
    table = affine(norm, ring.channels)
    moments = np.zeros((len(strips) if mean else 0, walk.outputs, 4))
    for thread in prange(threads):
        before = adopt(control)
        following = 0
        for place in range(begins[thread], begins[thread + 1]):
            number, image, images, first, last, begin, end = strips[place]
            if first == begin:
                following = 0
            of_chunk = narrowed(layout, images)
            following = forward_strip(
                x, norm, table, z, y, added, bias,
                moments[number].ctypes.data if mean else 0, walk, ring, of_chunk, stretches,
                offsets, chunk_of(of_chunk, image, images), first, last, (begin, end), following,
                lists, scratch + thread * scratch_step, streamed,
            )  # fmt: skip
        wait_for_stores()
        adopt(before)
    if mean:
        combine(moments, mean, var)
