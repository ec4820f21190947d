"""Windows to pool over."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Of an image of 9 x 7, by height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


WINDOWS = [
    Window((2, 2), (2, 2), (0, 0)),
    Window((9, 7), (9, 7), (0, 0)),
    Window((3, 3), (2, 2), (1, 1)),
    # Windows that overlap, that leave pixels out, and that have one pixel.
    Window((3, 5), (1, 2), (1, 2)),
    Window((2, 1), (3, 4), (1, 0)),
    Window((1, 1), (1, 1), (0, 0)),
]
