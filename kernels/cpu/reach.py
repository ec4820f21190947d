"""Which pixels a convolution, or its input gradient, reads for which pixels that it writes.

Both write *targets*, each the sum of what taps of the kernel read at *sources*: from a target's
*base* in the source on, every tap leads as far as its *offset* says. Targets that the same taps
reach inside the image make a *run*, so that no padding is ever written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.dealing import bands_of
from gemkern.kernels.cpu.strips import Walk
from gemkern.kernels.cpu.vectors import LANES


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

    def runs(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the runs of all targets, as in `Side.runs`."""
        for phase in range(self.phases):
            shift = self.padding if self.backward else 0
            members = range((phase - shift) % self.phases, self.targets, self.phases)
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
    """An axis as the kernels walk it.

    Attributes:
        targets, sources, taps: how many there are.
        step, base_step: from target to target of a run, and from base to base.
        offsets: int64 [taps].
        places: int64 [taps], the place of each tap in an order in which those of every run stand
            side by side.
        runs: int64 [runs, 5], of each first target, how many, first base, and the taps that reach
            them, from their first place to behind their last.
    """

    targets: int
    sources: int
    taps: int
    step: int
    base_step: int
    offsets: np.ndarray
    places: np.ndarray
    runs: np.ndarray


class Lines(NamedTuple):
    """How a convolution is walked row by row of its targets.

    Attributes:
        rows, columns: its sides.
        sizes: `Sizes`, as a plain tuple: one with names takes Numba longer.
        lines: int64 [rows, 3], the run, the target and the base of each.
        bands: int64 [bands + 1], the first line of each band, and how many lines there are.
    """

    rows: Side
    columns: Side
    sizes: tuple[int, ...]
    lines: np.ndarray
    bands: np.ndarray


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


@lru_cache(maxsize=4096)
def lines_of(walk: Walk, backward: bool) -> Lines | None:
    """Return how to walk the tensor row by row; None where images leave a vector partly empty."""
    if walk.batch % LANES:
        return None
    rows, columns = (_side(axis) for axis in _axes(walk, backward))
    channels = walk.inputs if backward else walk.outputs
    sizes = Sizes(walk.batch, channels, rows.targets, *columns[:5])
    lines = _table(_lines(rows), 3)
    return Lines(rows, columns, tuple(sizes), lines, bands_of(len(lines), 1))


def _lines(rows: Side) -> Iterator[tuple[int, ...]]:
    """Yield run, target and base of each row."""
    for number, (first, count, base, _, _) in enumerate(rows.runs.tolist()):
        for k in range(count):
            yield number, first + k * rows.step, base + k * rows.base_step


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


def _side(axis: Axis) -> Side:
    taps, order = range(axis.taps), axis.taps_by_phase()
    return Side(
        axis.targets, axis.sources, axis.taps, axis.phases, axis.base_step,
        np.array([axis.offset(tap) for tap in taps], np.int64),
        np.array([order.index(tap) for tap in taps], np.int64),
        _table(axis.runs(), 5),
    )  # fmt: skip


def _table(rows: Iterable[tuple[int, ...]], columns: int) -> np.ndarray:
    return np.array(list(rows), np.int64).reshape(-1, columns)
