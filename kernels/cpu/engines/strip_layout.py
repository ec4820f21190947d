"""Where a strip has its rows in the cache: rings of what is read, and panels of what is written."""

from __future__ import annotations

from typing import NamedTuple

from gemkern.kernels.cpu.loops.vector_rows import one_stretch
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import APART, BYTES, KERNEL_ROWS, LANES, aligned
from gemkern.kernels.cpu.machine.memory import floats, integers


class Layout(NamedTuple):
    """How a strip is worked on, in parts that caches hold.

    group: images; each group of a chunk has a ring of its own, where they lie side by side. Less
        than a vector are not filled up to one: vectors go on over pixels.
    span: pixels of a row in a panel.
    panel: channels of the target that are made before they are written.
    blocks: of the channels of the source; lists of entries are walked block by block, patch by
        patch. None is for short lists, which are walked along whole rows.
    """

    group: int
    span: int
    panel: int
    blocks: int


@njit
def ring_bytes(ring, layout):
    """Return how far the rings of two groups are apart."""
    slots = ring.last - ring.first + 2
    return slots * ring.channels * ring.width * layout.group * BYTES + APART


@njit
def clear_padding(ring_at, ring, layout, chunk):
    """Write the zeros of all rings: their last slots, padding, and lanes that hold no image."""
    slots, pixel = ring.last - ring.first + 1, BYTES * layout.group
    plane = ring.channels * ring.width * pixel
    full = chunk[2]
    for group in range(groups_of(chunk)):
        start = ring_at + group * ring_bytes(ring, layout)
        if group == full or ring.split > 1:
            zero(start, (slots + 1) * plane // BYTES)
            continue
        zero(start + slots * plane, plane // BYTES)
        right = ring.left + ring.columns
        for row in range(slots * ring.channels):
            of_row = start + row * ring.width * pixel
            zero(of_row, ring.left * layout.group)
            zero(of_row + right * pixel, (ring.width - right) * layout.group)


@njit
def zero(start, size):
    """Write zeros to float32 [size]."""
    target = floats(start, size)
    for i in range(size):
        target[i] = 0


@njit
def rooms(scratch, panel):
    """Return where the addresses of rows, the rows of a panel, and what comes after them lie."""
    buffer = scratch + 8 * KERNEL_ROWS
    return scratch, buffer, buffer + aligned(panel)


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
def narrowed(layout, images):
    """Return the layout for a chunk: no group has more vectors than that."""
    lanes = (images + LANES - 1) // LANES * LANES
    return Layout(min(layout.group, lanes), layout.span, layout.panel, layout.blocks)


@njit
def chunk_of(layout, image, images):
    """Return a chunk: its first image and how many it has, full groups, and images left over."""
    if layout.group % LANES:
        return image, images, 0, images
    groups, rest = divmod(images, layout.group)
    return image, images, groups, rest


@njit
def groups_of(chunk):
    """Return how many groups a chunk has, with that of the images left over."""
    _, _, groups, rest = chunk
    return groups + (rest > 0)


@njit
def is_plain(layout, chunk):
    """Return whether a chunk is walked along rows of whole vectors, as they lie in a tensor."""
    _, images, _, rest = chunk
    return layout.blocks == 0 and images == layout.group and rest == 0


@njit
def vectors_of(layout, pixels):
    """Return of how many vectors a stretch of so many pixels is."""
    return (pixels * layout.group + LANES - 1) // LANES


@njit
def row_shape(layout, chunk, batch, columns, split, near_group, ahead):
    """Return the shape of every split-th column of a row of a chunk, for the loops over rows.

    It is one stretch where a group is the batch. Groups of the row lie near_group bytes apart in
    the cache; what is read next lies `ahead` bytes further in the tensor.
    """
    _, images, groups, rest = chunk
    if images == batch == layout.group and split == 1:
        return one_stretch(columns * images, ahead)
    near, far = BYTES * layout.group, split * BYTES * batch
    return columns, groups, layout.group // LANES, rest, near, near_group, far, ahead


@njit
def next_channel(ring, channel, far):
    """Return how far the same row of the next channel is: after the last, the first one's next."""
    if channel < ring.channels - 1:
        return ring.rows * ring.columns * far
    return (1 - (ring.channels - 1) * ring.rows) * ring.columns * far


@njit
def panel_group(layout):
    """Return how far groups are apart in a panel [groups, channels, columns, images]."""
    return layout.panel * layout.span * layout.group * BYTES + APART
