"""How a convolution walks over its images: strides, phases and rings, in plain Python.

Every engine asks here which pixels are read for which pixels that are written. Sizes are pixels.
`kernels/README.md` draws a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

Pair = Sequence[int]


class Geometry(NamedTuple):
    """How a two-dimensional convolution walks over its images; pairs are height and width.

    Attributes:
        stride, padding, dilation: in pixels.
        groups: divides the channels of both sides.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def output_image(
    image: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> tuple[int, int]:
    """Return height and width of the output; all arguments are height and width, in pixels."""
    height, width = (
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, gap in zip(image, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


class Walk(NamedTuple):
    """A convolution of known sizes."""

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

    def axes(self, backward: bool) -> tuple[Axis, Axis]:
        """Return rows and columns of the convolution, or of the gradient of its input."""
        rows = (self.kernel_height, self.stride_height, self.pad_height, self.dilation_height)
        columns = (self.kernel_width, self.stride_width, self.pad_width, self.dilation_width)
        heights, widths = (self.out_height, self.height), (self.out_width, self.width)
        if backward:
            heights, widths = heights[::-1], widths[::-1]
        return Axis(*heights, *rows, backward), Axis(*widths, *columns, backward)


@lru_cache(maxsize=4096)
def walk_of(size: tuple[int, ...], shape: tuple[int, ...], geometry: Geometry) -> Walk:
    """Return the walk of images of `size` [N, Ci, H, W] and a weight of `shape`."""
    batch, inputs, *source = size
    outputs, _, *kernel = shape
    stride, padding, dilation, groups = geometry
    target = output_image(source, kernel, stride, padding, dilation)
    numbers = (batch, inputs, outputs, *source, *target, *kernel, *stride, *padding, *dilation)
    return Walk._make(map(int, (*numbers, groups)))


def joined(walk: Walk, most: int, fewest: int) -> Walk:
    """Return a walk with fewer and longer rows, if no pixel reads a neighbour.

    They have at most `most` numbers of all images, and there are at least `fewest` of them.
    """
    alone = walk.kernel_height == walk.kernel_width == walk.stride_height == walk.stride_width == 1
    if not alone or walk.pad_height or walk.pad_width:
        return walk
    pixels = walk.height * walk.width
    for rows in range(fewest, walk.height):
        columns, rest = divmod(pixels, rows)
        if rest == 0 and columns * walk.batch <= most:
            return walk._replace(height=rows, width=columns, out_height=rows, out_width=columns)
    return walk


class Axis(NamedTuple):
    """One direction of the images of a convolution, or of the gradient of its input.

    Both write *targets*, each the sum of what taps of the kernel read at *sources*: from a target's
    *base* in the source on, every tap leads as far as its *offset* says. Backward, the input is the
    target, and its pixels are walked by *phases* of the stride: in each of them, other taps reach
    the output.
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
        """Targets that the same taps reach are as far apart."""
        return self.stride if self.backward else 1

    @property
    def base_step(self) -> int:
        """How far apart the bases of such targets are."""
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

    def first_target(self, phase: int) -> int:
        """Return the first target that the taps of a phase reach."""
        return (phase - self.padding) % self.phases

    def first_step(self) -> tuple[int, int]:
        """Return the first and the last source that as many targets as there are phases read.

        As many targets further, what is read lies `base_step` further.
        """
        read = [
            self.base(self.first_target(self.phase(tap))) + self.offset(tap)
            for tap in range(self.taps)
        ]
        return min(read), max(read)

    def padded(self) -> tuple[int, int]:
        """Return the first and the last of the sources with the padding that targets read."""
        offsets = [self.offset(tap) for tap in range(self.taps)]
        first = self.base(0) + min(offsets)
        last = self.base(self.targets - 1) + max(offsets)
        return min(first, 0), max(last, self.sources - 1)


class Ring(NamedTuple):
    """Rows of a tensor of images, [slots + 1, channels, width, images]; the last slot is zeros.

    Attributes:
        channels, rows, columns: of the tensor.
        left, width: columns of zeros before a row, and its columns with those on both sides.
        split: a row is as many stretches one after the other, of every split-th column each, so
            that columns which are read for neighbours are neighbours.
        step, first, last: step s of a walk reads the rows s * step + first ... s * step + last.
    """

    channels: int
    rows: int
    columns: int
    left: int
    width: int
    split: int
    step: int
    first: int
    last: int

    @property
    def slots(self) -> int:
        """Rows that a step may read."""
        return self.last - self.first + 1

    def floats(self, lanes: int) -> int:
        """How many numbers it holds for a chunk of `lanes` images."""
        return (self.slots + 1) * self.channels * self.width * lanes


@lru_cache(maxsize=4096)
def ring_of(walk: Walk, backward: bool, whole: bool, splits: bool, spare: int = 0) -> Ring:
    """Return the ring of the input, or backward of the output's gradient.

    Args:
        whole: whether every row is read, also one that no target needs.
        splits: whether rows are split so that what neighbours read lies side by side.
        spare: columns of zeros behind each stretch of a row, which vectors may reach into.
    """
    rows, columns = walk.axes(backward)
    first, last = rows.first_step()
    if whole:
        first, last = min(first, 0), max(last, rows.base_step - 1)
    left, right = columns.padded()
    split = columns.base_step if splits else 1
    width = (-(-(right - left + 1) // split) + spare) * split
    return Ring(
        walk.outputs if backward else walk.inputs, rows.sources, columns.sources, -left, width,
        split, rows.base_step, first, last,
    )  # fmt: skip
