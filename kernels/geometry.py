"""How a convolution walks over its images, and the size of what convolutions and poolings write."""

from __future__ import annotations

from collections.abc import Sequence
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
