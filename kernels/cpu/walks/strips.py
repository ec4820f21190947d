"""How a sparse convolution is cut into strips whose rows of pixels stay in a core's cache.

A strip is a chunk of images and a band of rows. It is walked from top to bottom: each step reads
the rows that come into reach into a ring of rows in the cache, with the padding written out as
zeros, and makes one row of the output, or of the gradient of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gemkern.kernels.cpu.machine.lanes import BYTES, KERNEL_ROWS, LANES, LINE
from gemkern.kernels.cpu.walks.dealing import bands_of, listed, widest_chunk
from gemkern.kernels.geometry import Ring, Walk, ring_of, walk_of

# Bytes of a ring, which is read in long stretches: the last-level cache gives them fast enough.
RING_BYTES = 20_000_000


class Cut(NamedTuple):
    """How a pass over a convolution is cut for a number of threads, and the memory that it takes.

    Attributes:
        walk, ring: of the convolution, and of what it reads.
        offsets: int64 [kernel_height], how many rows of the ring each row of the kernel leads on.
        strips: int64 [strips, 7], thread by thread: number, first image and how many there are,
            first step and behind the last, and both for all steps that the thread makes of these
            images in turn.
        begins: int64 [threads + 1], the first strip of each thread, and how many there are.
        working: bytes that a thread works in: addresses of rows, two rows, and a ring.
    """

    walk: Walk
    ring: Ring
    offsets: np.ndarray
    strips: np.ndarray
    begins: np.ndarray
    working: int


@lru_cache(maxsize=4096)
def forward_cut(threads: int, keep: bool, *convolution: Any) -> Cut:
    """Return the cut of the forward pass, which may keep its input, of `walk_of`'s arguments."""
    walk = walk_of(*convolution)
    steps = walk.steps if keep else walk.out_height
    return _cut(threads, walk, False, keep, steps)


@lru_cache(maxsize=4096)
def backward_cut(threads: int, *convolution: Any) -> Cut:
    """Return the cut of the backward pass of `walk_of`'s arguments."""
    walk = walk_of(*convolution)
    return _cut(threads, walk, True, True, walk.steps)


def chunks_of(batch: int, steps: int, ring: Ring) -> list[tuple[int, int]]:
    """Return chunks of images, of each the first one and how many there are.

    A chunk is as many vectors as the cache allows; the last vector may be partly empty.
    """
    most = RING_BYTES // max(BYTES * ring.floats(LANES), 1)
    width = LANES * widest_chunk(-(-batch // LANES), steps, most)
    return [(first, min(width, batch - first)) for first in range(0, batch, width)]


def _cut(threads: int, walk: Walk, backward: bool, whole: bool, steps: int) -> Cut:
    ring, (rows, _) = ring_of(walk, backward, whole), walk.axes(backward)
    chunks = chunks_of(walk.batch, steps, ring)
    bounds = bands_of(steps, len(chunks))
    bands = len(bounds) - 1

    def strips_of(chunk: int, first: int, last: int) -> Iterator[tuple[int, ...]]:
        in_turn = bounds[first], bounds[last]
        for band in range(first, last):
            yield chunk * bands + band, *chunks[chunk], *bounds[band : band + 2], *in_turn

    strips, begins = listed(len(chunks), bands, threads, 7, strips_of)
    lanes = max((-(-images // LANES) * LANES for _, images in chunks), default=0)
    row = max(walk.width, walk.out_width) * lanes
    parts = (2 * KERNEL_ROWS, row, row, ring.floats(lanes))
    working = sum(-(-BYTES * part // LINE) * LINE for part in parts)
    offsets = np.array([rows.offset(tap) for tap in range(rows.taps)], np.int64)
    return Cut(walk, ring, offsets, strips, begins, working)
