"""How the taps of a convolution lead from a pixel that is written to the pixels that are read.

The output of a convolution and the gradient of its input are made alike. Along one axis let the
pixels that are written be phase + phases * u for u = 0, 1, ...; tap first + t * tap_step reads
pixel u * scale + begin + t * step of the source, for t = 0, 1, ... while the kernel has taps. The
output has one phase. The gradient of the input has as many as the stride: in each of them every
stride/gcd(stride, dilation)-th tap divides evenly and no other contributes, so none is wasted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import triton
import triton.language as tl

Pair = Sequence[int]
# Pixels are counted in int32, with room for the rest of a tile beyond the last.
MOST_PIXELS = 2**31 - 2**20


@triton.jit
def taps_of(phase, PHASES, ORIGIN, DILATION, KERNEL, TAP_STEP):
    """Return the first tap that reaches `phase`, how many taps do, and where the first one reads.

    Where none does, the count is 0 and the other two mean nothing.
    """
    first = phase * 0 + KERNEL
    for tap in range(0, TAP_STEP):
        reaches = (phase + ORIGIN - tap * DILATION) % PHASES == 0
        first = tl.where(reaches, tap, first)
    first = tl.minimum(first, KERNEL)
    count = (KERNEL - first + TAP_STEP - 1) // TAP_STEP
    return first, count, (phase + ORIGIN - first * DILATION) // PHASES


@triton.jit
def pixels_of(rows, HEIGHT, WIDTH):
    """Return the image of each row, and its place in a plane of HEIGHT * WIDTH."""
    image = rows // (HEIGHT * WIDTH)
    place = rows % (HEIGHT * WIDTH)
    return image, place // WIDTH, place % WIDTH


@dataclass(frozen=True)
class Axis:
    """The walk along height or width: sizes of source, out and kernel, and the numbers above."""

    source: int
    out: int
    kernel: int
    phases: int
    scale: int
    origin: int
    dilation: int
    step: int
    tap_step: int

    @property
    def longest(self) -> int:
        """Pixels that are written in the longest phase."""
        return triton.cdiv(self.out, self.phases)


@dataclass(frozen=True)
class Walk:
    """The walk over whole images."""

    images: int
    height: Axis
    width: Axis

    @property
    def rows(self) -> int:
        """Pixels that are written in a phase, those beyond a shorter one included."""
        return self.images * self.height.longest * self.width.longest

    @property
    def phases(self) -> int:
        return self.height.phases * self.width.phases

    @cached_property
    def arguments(self) -> dict[str, int]:
        """What kernels take, by name."""
        named: dict[str, int] = {}
        for letter, axis in (("H", self.height), ("W", self.width)):
            named |= {f"{name.upper()}_{letter}": size for name, size in vars(axis).items()}
        return named


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def output_walk(
    x_size: Sequence[int], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Walk:
    """Return the walk from the output over an input [N, C, H, W]."""

    def axis(i: int) -> Axis:
        return Axis(
            source=x_size[2 + i],
            out=output_size(x_size[2 + i], kernel[i], stride[i], padding[i], dilation[i]),
            kernel=kernel[i],
            phases=1,
            scale=stride[i],
            origin=-padding[i],
            dilation=dilation[i],
            step=dilation[i],
            tap_step=1,
        )

    return _checked(Walk(x_size[0], axis(0), axis(1)))


def input_walk(
    x_size: Sequence[int],
    y_size: Sequence[int],
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Walk:
    """Return the walk from the gradient of the input over that of the output."""

    def axis(i: int) -> Axis:
        common = math.gcd(stride[i], dilation[i])
        return Axis(
            source=y_size[2 + i],
            out=x_size[2 + i],
            kernel=kernel[i],
            phases=stride[i],
            scale=1,
            origin=padding[i],
            dilation=dilation[i],
            step=-(dilation[i] // common),
            tap_step=stride[i] // common,
        )

    return _checked(Walk(x_size[0], axis(0), axis(1)))


def _checked(walk: Walk) -> Walk:
    if walk.rows > MOST_PIXELS:
        raise NotImplementedError(
            f"these kernels count at most {MOST_PIXELS} pixels and there are {walk.rows}"
        )
    return walk
