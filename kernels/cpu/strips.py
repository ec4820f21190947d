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
from gemkern.kernels.cpu.dealing import bands_of, listed, widest_chunk
from gemkern.kernels.cpu.scratch import LINE
from gemkern.kernels.cpu.vectors import BYTES_OF_FLOAT, LANES, ROW_BITS
from gemkern.kernels.geometry import Geometry, output_image

# Rows of a kernel that an entry can tell apart.
TAPS = 2**ROW_BITS
# Bytes of a ring, which is read in long runs: the last-level cache gives them fast enough.
CACHE = 20_000_000


class Walk(NamedTuple):
    """A convolution; sizes of images, kernel, stride, padding and dilation are pixels."""

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    pad_height: int
    pad_width: int
    dilation_height: int
    dilation_width: int
    groups: int

    @property
    def steps(self) -> int:
        """Rows of the output, or more where the input goes on below them."""
        return max(self.out_height, -(-self.height // self.stride_height))


class Ring(NamedTuple):
    """Rows of a tensor of images, [slots + 1, channels, width, images]; the last slot is zeros.

    Attributes:
        channels, rows, columns: of the tensor.
        left, width: columns of zeros before a row, and its columns with those on both sides.
        step, first, last: step s of a walk reads the rows s * step + first ... s * step + last.
    """

    channels: int
    rows: int
    columns: int
    left: int
    width: int
    step: int
    first: int
    last: int

    @property
    def slots(self) -> int:
        """Rows that are in reach together."""
        return self.last - self.first + 1

    def floats(self, lanes: int) -> int:
        """How many numbers it holds for a chunk of `lanes` images."""
        return (self.slots + 1) * self.channels * self.width * lanes


class Cut(NamedTuple):
    """How a pass over a convolution is cut for a number of threads, and the memory that it takes.

    Attributes:
        walk, ring: as the functions of this module return them.
        strips: int64 [strips, 7], thread by thread: number, first image and how many there are,
            first step and behind the last, and both for all steps that the thread makes of these
            images in turn.
        begins: int64 [threads + 1], the first strip of each thread, and how many there are.
        working: bytes that a thread works in: addresses of rows, two rows, and a ring.
    """

    walk: Walk
    ring: Ring
    strips: np.ndarray
    begins: np.ndarray
    working: int


@lru_cache(maxsize=4096)
def forward_cut(threads: int, keep: bool, *convolution: Any) -> Cut:
    """Return the cut of the forward pass, which may keep its input, of `walk_of`'s arguments."""
    walk = walk_of(*convolution)
    steps = walk.steps if keep else walk.out_height
    return _cut(threads, walk, source_ring(walk, keep), steps)


@lru_cache(maxsize=4096)
def backward_cut(threads: int, *convolution: Any) -> Cut:
    """Return the cut of the backward pass of `walk_of`'s arguments."""
    walk = walk_of(*convolution)
    return _cut(threads, walk, target_ring(walk), walk.steps)


@lru_cache(maxsize=4096)
def walk_of(size: tuple[int, ...], shape: tuple[int, ...], geometry: Geometry) -> Walk:
    """Return the walk of images of `size` [N, Ci, H, W] and a weight of `shape`."""
    batch, inputs, *source = size
    outputs, _, *kernel = shape
    stride, padding, dilation, groups = geometry
    target = output_image(source, kernel, stride, padding, dilation)
    numbers = (batch, inputs, outputs, *source, *target, *kernel, *stride, *padding, *dilation)
    return Walk._make(map(int, (*numbers, groups)))


@lru_cache(maxsize=4096)
def source_ring(walk: Walk, backward: bool) -> Ring:
    """Return the ring of the input; backward it also holds the rows whose gradient is made."""
    first = -walk.pad_height
    last = walk.dilation_height * (walk.kernel_height - 1) - walk.pad_height
    if backward:
        first, last = min(first, 0), max(last, walk.stride_height - 1)
    span = walk.dilation_width * (walk.kernel_width - 1) + 1
    reached = (walk.out_width - 1) * walk.stride_width + span
    width = max(reached, walk.pad_width + walk.width)
    return Ring(
        walk.inputs, walk.height, walk.width, walk.pad_width, width, walk.stride_height, first, last
    )


@lru_cache(maxsize=4096)
def target_ring(walk: Walk) -> Ring:
    """Return the ring of the output's gradient."""
    furthest = (walk.kernel_height - 1) * walk.dilation_height
    first = min(0, -((furthest - walk.pad_height) // walk.stride_height))
    last = (walk.stride_height - 1 + walk.pad_height) // walk.stride_height
    furthest = (walk.kernel_width - 1) * walk.dilation_width
    left = max(0, furthest // walk.stride_width - walk.pad_width // walk.stride_width)
    right = (walk.width - 1 + walk.pad_width) // walk.stride_width
    width = left + max(right + 1, walk.out_width)
    return Ring(walk.outputs, walk.out_height, walk.out_width, left, width, 1, first, last)


def chunks_of(batch: int, steps: int, ring: Ring) -> list[tuple[int, int]]:
    """Return chunks of images, of each the first one and how many there are.

    A chunk is as many vectors as the cache allows; the last vector may be partly empty.
    """
    most = CACHE // max(BYTES_OF_FLOAT * ring.floats(LANES), 1)
    width = LANES * widest_chunk(-(-batch // LANES), steps, most)
    return [(first, min(width, batch - first)) for first in range(0, batch, width)]


def _cut(threads: int, walk: Walk, ring: Ring, steps: int) -> Cut:
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
    parts = (2 * TAPS, row, row, ring.floats(lanes))
    working = sum(-(-BYTES_OF_FLOAT * part // LINE) * LINE for part in parts)
    return Cut(walk, ring, strips, begins, working)
