"""Which pixels a convolution, or its input gradient, reads for which pixels that it writes.

Both write *targets*, each the sum of what taps of the kernel read at *sources*: from a target's
*base* in the source on, every tap leads as far as its *offset* says. Targets that the same taps
reach inside the image make a *run*, so that no padding is ever written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.dealing import bands_of, listed, widest_chunk
from gemkern.kernels.cpu.strips import VECTORS, Walk
from gemkern.kernels.cpu.vectors import BYTES_OF_FLOAT, LANES

# Bytes that are read together, and widths of a block of pixels, the best first: wide ones cost the
# fewest starts of inner loops. Measured with AVX-512 and 2 MiB of second-level cache, and with AVX2
# and 512 KiB: there rows that lie too far apart are copied rather than cut.
CACHE, WIDTHS = (2_000_000, (1024, 32, 16, 8, 4)) if LANES == 16 else (1_000_000, (1024,))


class Axis(NamedTuple):
    """One direction of an image; sizes are pixels.

    Backward, the input is the target, and its pixels are walked by phases of the stride: in each of
    them, other taps reach the output.
    """

    targets: int
    sources: int
    taps: int
    stride: int
    padding: int
    dilation: int
    backward: bool

    @property
    def phases(self) -> int:
        """Targets of a run are as far apart."""
        return self.stride if self.backward else 1

    @property
    def base_step(self) -> int:
        """How far apart the bases of a run's targets are."""
        return 1 if self.backward else self.stride

    def base(self, target: int) -> int:
        if self.backward:
            return (target + self.padding) // self.stride
        return target * self.stride - self.padding

    def offset(self, tap: int) -> int:
        way = tap * self.dilation
        return -(way // self.stride) if self.backward else way

    def phase(self, tap: int) -> int:
        return tap * self.dilation % self.phases

    def taps_by_phase(self) -> list[int]:
        """Return the taps in an order in which those of every run stand side by side."""
        return sorted(range(self.taps), key=self.phase)

    def span(self, width: int) -> int:
        """Return at most how many sources a block of `width` targets reads."""
        bases = (width - 1) * self.base_step // self.phases
        return min(self.sources, bases + abs(self.offset(self.taps - 1)) + 1)

    def reach(self, tap: int) -> tuple[int, int, int]:
        """Return the first target that a tap reaches, how many, and the base of the first."""
        shift = self.padding if self.backward else 0
        members = [
            target
            for target in range((self.phase(tap) - shift) % self.phases, self.targets, self.phases)
            if 0 <= self.base(target) + self.offset(tap) < self.sources
        ]
        return (members[0], len(members), self.base(members[0])) if members else (0, 0, 0)

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the runs of the targets first:last, as in `Side.runs`."""
        for phase in range(self.phases):
            shift = self.padding if self.backward else 0
            members = range(first + (phase - shift - first) % self.phases, last, self.phases)
            taps = [
                (place, self.offset(tap))
                for place, tap in enumerate(self.taps_by_phase())
                if self.phase(tap) == phase
            ]

            def places(target: int, taps: list[tuple[int, int]] = taps) -> tuple[int, int]:
                base = self.base(target)
                found = [place for place, off in taps if 0 <= base + off < self.sources]
                return (found[0], found[-1] + 1) if found else (0, 0)

            for (begin, end), run in groupby(members, places):
                of_run = list(run)
                yield of_run[0], len(of_run), self.base(of_run[0]), begin, end


class Side(NamedTuple):
    """An axis as the kernels walk it, in blocks of targets.

    Attributes:
        targets, sources, taps: how many there are.
        step, base_step: from target to target of a run, and from base to base.
        offsets: int64 [taps].
        places: int64 [taps], the place of each tap in an order in which those of every run stand
            side by side.
        runs: int64 [runs, 5], block by block: first target, how many, first base, and the taps that
            reach them, from their first place to behind their last.
        blocks: int64 [blocks + 1], the first run of each.
        reaches: int64 [taps, 3], by place the first target that a tap reaches, how many, and the
            base of the first.
    """

    targets: int
    sources: int
    taps: int
    step: int
    base_step: int
    offsets: np.ndarray
    places: np.ndarray
    runs: np.ndarray
    blocks: np.ndarray
    reaches: np.ndarray


class Lines(NamedTuple):
    """How a convolution is walked row by row of its targets.

    Attributes:
        rows, columns: its sides, one block each.
        sizes: `Sizes`, as a plain tuple: one with names takes Numba longer.
        lines: int64 [rows, 3], the run, the target and the base of each.
    """

    rows: Side
    columns: Side
    sizes: tuple[int, ...]
    lines: np.ndarray


class Sizes(NamedTuple):
    """What the walk over lines has to know.

    Attributes:
        batch, channels: of the target.
        rows: of the target.
        columns, sources, taps, step, base_step: of the columns, as in `Side`.
    """

    batch: int
    channels: int
    rows: int
    columns: int
    sources: int
    taps: int
    step: int
    base_step: int


class Plan(NamedTuple):
    """How a convolution is walked by a number of threads.

    Attributes:
        rows, columns: its sides; the rows are one block.
        units: int64 [units, 7], thread by thread, the part that a unit belongs to; kind and first
            byte of its piece of images; its block of columns; run, target and base of its row.
        begins: int64 [threads + 1], the first unit of each thread, and how many there are.
        parts: how many there are; every part is made by one thread.
    """

    rows: Side
    columns: Side
    units: np.ndarray
    begins: np.ndarray
    parts: int


@lru_cache(maxsize=4096)
def plan_of(walk: Walk, backward: bool, threads: int) -> Plan | None:
    """Return how to read the tensor where it lies; None where that does not pay.

    It does not where images leave a vector partly empty, nor where what the narrowest block reads
    is more than the cache holds: there it pays to copy it side by side.
    """
    if walk.batch % LANES:
        return None
    rows, columns = _axes(walk, backward)
    channels = walk.outputs if backward else walk.inputs
    pixel = channels * rows.span(1) * min(walk.batch, VECTORS[0] * LANES) * BYTES_OF_FLOAT
    widths = (width for width in WIDTHS if pixel * columns.span(width) <= CACHE)
    width = next(widths, None)
    if width is None:
        return None
    side, blocks = _side(rows, max(rows.targets, 1)), _side(columns, width)
    lines = _lines(side)
    chunks = _chunks(walk.batch, len(lines), CACHE // max(pixel * columns.span(width), 1))
    return Plan(side, blocks, *_units(lines, len(blocks.blocks) - 1, chunks, threads))


@lru_cache(maxsize=4096)
def lines_of(walk: Walk, backward: bool) -> Lines | None:
    """Return how to walk the tensor row by row; None where images leave a vector partly empty."""
    if walk.batch % LANES:
        return None
    rows, columns = (_side(axis, max(axis.targets, 1)) for axis in _axes(walk, backward))
    channels = walk.inputs if backward else walk.outputs
    sizes = Sizes(walk.batch, channels, rows.targets, *columns[:5])
    return Lines(rows, columns, tuple(sizes), _table(_lines(rows), 3))


def _lines(rows: Side) -> list[tuple[int, ...]]:
    """Return run, target and base of each row."""
    return [
        (number, first + k * rows.step, base + k * rows.base_step)
        for number, (first, count, base, _, _) in enumerate(rows.runs.tolist())
        for k in range(count)
    ]


def _units(
    lines: list[tuple[int, ...]],
    blocks: int,
    chunks: list[list[tuple[int, int]]],
    threads: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return units, begins and parts of a plan; a part is a chunk's band of lines."""
    bounds = bands_of(len(lines), len(chunks))
    bands = len(bounds) - 1
    band_of = np.repeat(np.arange(bands), np.diff(bounds)).tolist()

    def units_of(chunk: int, first: int, last: int) -> Iterator[tuple[int, ...]]:
        for block in range(blocks):
            for line in range(bounds[first], bounds[last]):
                for piece in chunks[chunk]:
                    yield chunk * bands + band_of[line], *piece, block, *lines[line]

    units, begins = listed(len(chunks), bands, threads, 7, units_of)
    return units, begins, len(chunks) * bands


def _axes(walk: Walk, backward: bool) -> tuple[Axis, Axis]:
    rows = (walk.kernel_height, walk.stride_height, walk.pad_height, walk.dilation_height)
    columns = (walk.kernel_width, walk.stride_width, walk.pad_width, walk.dilation_width)
    if backward:
        return (
            Axis(walk.height, walk.out_height, *rows, backward),
            Axis(walk.width, walk.out_width, *columns, backward),
        )
    return (
        Axis(walk.out_height, walk.height, *rows, backward),
        Axis(walk.out_width, walk.width, *columns, backward),
    )


def _side(axis: Axis, width: int) -> Side:
    runs: list[tuple[int, ...]] = []
    blocks = [0]
    for first in range(0, axis.targets, width):
        runs += axis.runs(first, min(first + width, axis.targets))
        blocks.append(len(runs))
    taps, order = range(axis.taps), axis.taps_by_phase()
    return Side(
        axis.targets, axis.sources, axis.taps, axis.phases, axis.base_step,
        np.array([axis.offset(tap) for tap in taps], np.int64),
        np.array([order.index(tap) for tap in taps], np.int64),
        _table(runs, 5), np.array(blocks, np.int64), _table([axis.reach(tap) for tap in order], 3),
    )  # fmt: skip


def _chunks(batch: int, lines: int, most: int) -> list[list[tuple[int, int]]]:
    """Return chunks of at most so many pieces, of each its kind and its first byte in a pixel."""
    pieces, image = [], 0
    while image < batch:
        kind = next(k for k, many in enumerate(VECTORS) if many * LANES <= batch - image)
        pieces.append((kind, image * BYTES_OF_FLOAT))
        image += VECTORS[kind] * LANES
    width = widest_chunk(len(pieces), lines, most)
    return [pieces[first : first + width] for first in range(0, len(pieces), width)]


def _table(rows: list[tuple[int, ...]], columns: int) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, columns)
