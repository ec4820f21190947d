"""How the pixels that a convolution writes lead to the pixels that it reads, along one axis.

The output of a convolution and the gradient of its input are made alike: a pixel that is written
reads one pixel of the source for every tap that reaches it, at base + reach[tap]. Pixels that are
reached by the same taps in the same way are of one kind: those inside a stride 1 convolution are
one kind, each border is another, and the gradient of a strided one has a kind for each phase.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

# The reach of a tap that falls outside the source, or between its pixels.
NOWHERE = np.iinfo(np.int64).min


class Axis(NamedTuple):
    """The walk along the height or the width; every array is int64.

    Attributes:
        reach: [kinds, kernel], where a tap reads, relative to the base of a pixel, or NOWHERE.
        pixels: [written, 3], each pixel's kind, number and base, sorted by kind.
        runs: [runs, 5], the kind, first pixel, count, step from pixel to pixel and first base of
            pixels of one kind whose bases are `base_step` apart; block by block.
        blocks: [blocks + 1], the first run of each block of neighbouring pixels.
        base_step: from one pixel of a run to the next, in pixels of the source.
    """

    reach: np.ndarray
    pixels: np.ndarray
    runs: np.ndarray
    blocks: np.ndarray
    base_step: int


@lru_cache(maxsize=4096)
def forward_axis(
    source: int, kernel: int, stride: int, padding: int, dilation: int, block: int
) -> Axis:
    """Return the walk that writes the output, in blocks of at most `block` pixels."""
    written = (source + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    bases = [pixel * stride - padding for pixel in range(written)]
    reaches = [
        tuple(
            tap * dilation if 0 <= base + tap * dilation < source else NOWHERE
            for tap in range(kernel)
        )
        for base in bases
    ]
    return _axis(bases, reaches, 1, stride, block)


@lru_cache(maxsize=4096)
def input_grad_axis(
    source: int, written: int, kernel: int, stride: int, padding: int, dilation: int, block: int
) -> Axis:
    """Return the walk from `source` pixels of dL/dy to `written` pixels of dL/dx."""
    bases = [(pixel + padding) // stride for pixel in range(written)]
    reaches = []
    for pixel, base in enumerate(bases):
        places = [pixel + padding - tap * dilation for tap in range(kernel)]
        reaches.append(
            tuple(
                place // stride - base
                if place % stride == 0 and 0 <= place // stride < source
                else NOWHERE
                for place in places
            )
        )
    return _axis(bases, reaches, stride, 1, block)


def _axis(
    bases: list[int], reaches: list[tuple[int, ...]], step: int, base_step: int, block: int
) -> Axis:
    numbers = {reach: kind for kind, reach in enumerate(dict.fromkeys(reaches))}
    kinds = [numbers[reach] for reach in reaches]
    pixels = sorted((kind, pixel, bases[pixel]) for pixel, kind in enumerate(kinds))
    runs: list[list[int]] = []
    blocks = [0]
    for first in range(0, len(kinds), block):
        runs += _runs(kinds[first : first + block], bases, first, step)
        blocks.append(len(runs))
    kernel = len(reaches[0]) if reaches else 0
    return Axis(
        reach=np.array(list(numbers), dtype=np.int64).reshape(len(numbers), kernel),
        pixels=np.array(pixels, dtype=np.int64).reshape(-1, 3),
        runs=np.array(runs, dtype=np.int64).reshape(-1, 5),
        blocks=np.array(blocks, dtype=np.int64),
        base_step=base_step,
    )


def _runs(kinds: list[int], bases: list[int], first: int, step: int) -> list[list[int]]:
    """Return the runs of a block whose pixels begin at `first`."""
    runs: list[list[int]] = []
    for phase in range(min(step, len(kinds))):
        previous = None
        for place in range(phase, len(kinds), step):
            if kinds[place] == previous:
                runs[-1][2] += 1
            else:
                previous = kinds[place]
                runs.append([previous, first + place, 1, step, bases[first + place]])
    return runs
