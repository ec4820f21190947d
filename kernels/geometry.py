"""The size of what convolutions and poolings write."""

from __future__ import annotations

from collections.abc import Sequence

Pair = Sequence[int]


def output_image(
    image: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> tuple[int, int]:
    """Return height and width of the output; all arguments are height and width, in pixels."""
    height, width = (
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, gap in zip(image, kernel, stride, padding, dilation, strict=True)
    )
    return height, width
