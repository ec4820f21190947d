"""How a tensor is walked where it lies: line by line, run by run.

A run's taps stay inside the image, so that no padding is ever written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.walks.dealing import bands_of
from gemkern.kernels.geometry import Axis, Walk


class Lines(NamedTuple):
    """How a convolution is walked row by row of its targets.

    Attributes:
        sizes: `Sizes`, as a plain tuple: one with names takes Numba longer.
        row_runs, column_runs: int64 [runs, 5], as `Axis.runs` yields them.
        lines: int64 [rows, 3], the run, the target and the base of each.
        bands: int64 [bands + 1], the first line of each band, and how many lines there are.
    """

    sizes: tuple[int, ...]
    row_runs: np.ndarray
    column_runs: np.ndarray
    lines: np.ndarray
    bands: np.ndarray


class Sizes(NamedTuple):
    """What the walk over lines has to know.

    Attributes:
        batch, channels, rows: of the target.
        columns, sources, taps: how many columns the target has, the source and the kernel.
        step, base_step: columns from target to target of a run, and from base to base.
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
def lines_of(walk: Walk, backward: bool) -> Lines:
    """Return how to walk the tensor row by row; its images fill whole vectors."""
    rows, columns = walk.axes(backward)
    channels = walk.inputs if backward else walk.outputs
    sizes = Sizes(
        walk.batch,
        channels,
        rows.targets,
        columns.targets,
        columns.sources,
        columns.taps,
        columns.phases,
        columns.base_step,
    )
    row_runs, column_runs = (_table(axis.runs(), 5) for axis in (rows, columns))
    lines = _table(_lines(rows, row_runs), 3)
    return Lines(tuple(sizes), row_runs, column_runs, lines, bands_of(len(lines), 1))


def _lines(rows: Axis, runs: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield run, target and base of each row."""
    for number, (first, count, base, _, _) in enumerate(runs.tolist()):
        for k in range(count):
            yield number, first + k * rows.phases, base + k * rows.base_step


def _table(rows: Iterable[tuple[int, ...]], columns: int) -> np.ndarray:
    return np.array(list(rows), np.int64).reshape(-1, columns)
