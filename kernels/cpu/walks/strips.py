"""How a sparse convolution is cut into strips whose rows of pixels stay in a core's cache.

A strip is a chunk of images and a band of rows. It is walked from top to bottom: each step reads
the rows that come into reach into a ring of rows in the cache, with the padding written out as
zeros, and makes one row of the output, or of the gradient of the input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.machine.lanes import (
    APART,
    BYTES,
    BYTES_OF_VECTOR,
    KERNEL_ROWS,
    LANES,
    LINE,
    PATCH,
)
from gemkern.kernels.cpu.walks.dealing import bands_of, listed, widest_chunk
from gemkern.kernels.geometry import Axis, Geometry, Ring, Walk, joined, ring_of, walk_of
from gemkern.kernels.reference.pattern import Pattern

# Bytes of what a block of source channels is read from for a patch, and of a panel of rows: the
# first stays in the first-level cache (48 KB where there is AVX-512, else 32), the second in the
# next one.
BLOCK_BYTES, PANEL_BYTES = 2**15 if LANES == 16 else 3 * 2**13, 2**18
# Entries of a list, on average, from which on it is a long one, forward and backward; there a patch
# keeps no sums in registers from entry to entry, which pays only for rings that leave the
# second-level cache, and only with AVX-512, which has registers for twice as many vectors.
LONG, LONG_BACKWARD = 20, 48 if LANES == 16 else sys.maxsize
NEAR_BYTES = 2**20
# Numbers of a row of pixels that read no neighbours, at most, and rows that are left, at least.
JOINED, JOINED_ROWS = 2**12, 8
# Bytes of the rings of a chunk: the last-level cache gives them fast enough.
RING_BYTES = 20_000_000


class Cut(NamedTuple):
    """How a pass over a convolution is cut for a number of threads, and the memory that it takes.

    Attributes:
        walk, ring: of the convolution, and of what it reads.
        layout: images of a group, pixels of a row, channels of a panel, and blocks of channels,
            as `engines/strip_layout.py` understands them.
        stretches: int64 [split, 3], of the stretches that a row of the tensor is in the cache (of
            the input, forward and backward): first column, columns, and where they begin.
        phases: the same of the phases of the target's columns.
        offsets: int64 [kernel_height], how many rows of the ring each row of the kernel leads on.
        strips: int64 [strips, 7], thread by thread: number, first image and how many there are,
            first step and behind the last, and both for all steps that the thread makes of these
            images in turn.
        begins: int64 [threads + 1], the first strip of each thread, and how many there are.
        working: bytes that a thread works in: addresses of rows, two panels, and rings.
    """

    walk: Walk
    ring: Ring
    layout: tuple[int, int, int, int]
    stretches: np.ndarray
    phases: np.ndarray
    offsets: np.ndarray
    strips: np.ndarray
    begins: np.ndarray
    working: int

    @property
    def blocks(self) -> int:
        """Into how many blocks of channels entries are listed."""
        return max(self.layout[-1], 1)


@lru_cache(maxsize=4096)
def walked(
    size: tuple[int, ...], shape: tuple[int, ...], geometry: Geometry
) -> tuple[Walk, tuple[int, ...]]:
    """Return how strips walk images of `size` [N, Ci, H, W] for a weight, and the size of y."""
    walk = walk_of(size, shape, geometry)
    made = walk.batch, walk.outputs, walk.out_height, walk.out_width
    return joined(walk, JOINED, JOINED_ROWS), made


def forward_cut(threads: int, keep: bool, pattern: Pattern, walk: Walk) -> Cut:
    """Return the cut of the forward pass, which may keep its input."""
    steps = walk.steps if keep else walk.out_height
    lists = len(pattern.positions) // max(LONG * walk.outputs, 1)
    return _cut(threads, walk, False, keep, steps, lists)


def backward_cut(threads: int, pattern: Pattern, walk: Walk) -> Cut:
    """Return the cut of the backward pass."""
    targets = walk.inputs * walk.stride_height * walk.stride_width
    lists = len(pattern.positions) // max(LONG_BACKWARD * targets, 1)
    return _cut(threads, walk, True, True, walk.steps, lists)


def chunks_of(batch: int, steps: int, ring: Ring) -> list[tuple[int, int]]:
    """Return chunks of images, of each the first one and how many there are.

    A chunk is as many vectors as the cache allows; the last vector may be partly empty.
    """
    most = RING_BYTES // max(BYTES * ring.floats(LANES), 1)
    width = LANES * widest_chunk(-(-batch // LANES), steps, most)
    return [(first, min(width, batch - first)) for first in range(0, batch, width)]


@lru_cache(maxsize=4096)
def _cut(threads: int, walk: Walk, backward: bool, whole: bool, steps: int, lists: int) -> Cut:
    """Return a cut; the entries of a target may be cut into so many long lists."""
    ring, (rows, columns) = ring_of(walk, backward, whole, False), walk.axes(backward)
    chunks = chunks_of(walk.batch, steps, ring)
    bounds = bands_of(steps, len(chunks))
    bands = len(bounds) - 1

    def strips_of(chunk: int, first: int, last: int) -> Iterator[tuple[int, ...]]:
        in_turn = bounds[first], bounds[last]
        for band in range(first, last):
            yield chunk * bands + band, *chunks[chunk], *bounds[band : band + 2], *in_turn

    strips, begins = listed(len(chunks), bands, threads, 7, strips_of)
    vectors = max((-(-images // LANES) for _, images in chunks), default=1)
    if backward and BYTES * ring.floats(LANES * vectors) <= NEAR_BYTES:
        lists = 0
    size, blocks = _groups(vectors, rows, columns, ring.channels // walk.groups, lists)
    # Images of less than a vector: pixels share vectors, which may reach over the end of a row.
    few = 0 < walk.batch < LANES
    group, unit, spare = LANES * size, 1, 0
    if few:
        group, unit, spare = walk.batch, LANES, -(-LANES // walk.batch)
    splits = few or blocks > 0
    if splits:
        ring = ring_of(walk, backward, whole, splits, spare)
    phases = _of_phases(columns, splits, unit)
    whole_row = np.array([(0, columns.targets, 0)], np.int64)
    stretches = (phases if splits else whole_row) if backward else _of_ring(ring)
    span = sum(-(-count // unit) * unit for _, count, _ in phases.tolist())
    groups, row = -(-vectors // size), BYTES * span * group
    targets = walk.inputs if backward else walk.outputs
    panel = max(1, min(PANEL_BYTES // max(row * groups, 1), targets)) if blocks else 1
    panels, rings = panel * row + APART, BYTES * ring.floats(group) + APART
    parts = (8 * KERNEL_ROWS, panels * groups, panels * groups, rings * groups)
    working = sum(-(-part // LINE) * LINE for part in parts)
    offsets = np.array([rows.offset(tap) for tap in range(rows.taps)], np.int64)
    layout = group, span, panel, blocks
    return Cut(walk, ring, layout, stretches, phases, offsets, strips, begins, working)


def _of_ring(ring: Ring) -> np.ndarray:
    """Return the stretches of a row of a ring: of every split-th column."""
    found = []
    for part in range(ring.split):
        first = (part - ring.left) % ring.split
        place = part * (ring.width // ring.split) + (first + ring.left) // ring.split
        found.append((first, len(range(first, ring.columns, ring.split)), place))
    return np.array(found, np.int64)


def _of_phases(columns: Axis, splits: bool, unit: int) -> np.ndarray:
    """Return the stretches of a row of the target, phase by phase.

    They lie one after the other, each from a multiple of `unit` pixels on, or as they are strewn
    over the row.
    """
    found, place = [], 0
    for phase in range(columns.phases):
        first = columns.first_target(phase)
        count = len(range(first, columns.targets, columns.phases))
        found.append((first, count, place if splits else first))
        place += -(-count // unit) * unit
    return np.array(found, np.int64)


def _groups(vectors: int, rows: Axis, columns: Axis, channels: int, lists: int) -> tuple[int, int]:
    """Return of how many vectors of a chunk a group is, and into how many blocks channels are cut.

    Long lists of entries are walked patch by patch, and cut into blocks whose patches the
    first-level cache holds: a group is as many vectors as fill a patch, or more if fewer lanes are
    left empty. Short ones are walked along rows: a group is the chunk, and there are no blocks.
    """
    if lists == 0:
        return vectors, 0
    wanted = max(1, min(-(-PATCH * columns.phases // max(columns.targets, 1)), vectors))
    group = min(range(wanted, 2 * wanted), key=lambda size: -vectors % size)
    read = BYTES_OF_VECTOR * rows.taps * (PATCH + (columns.taps - 1) * group)
    return group, max(1, min(-(-channels * read // BLOCK_BYTES), lists))
