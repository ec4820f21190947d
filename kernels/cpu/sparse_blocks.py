"""How much of the source is read together, so that it stays in a core's cache.

All channels of a block of pixels are written before the next block, and what they read, a few rows
of every channel of the source, is read again by every channel. Where that is too much for the
cache, the channels of the source are taken in parts, and what is written is added to.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Most bytes read together: nearly a second-level cache of 2 MiB, on which it was measured.
MOST_BYTES = 2_000_000
# Widths of a block of pixels, the best first: wide ones cost the fewest starts of inner loops.
WIDTHS = (16, 8, 4)
# Images that the inner loops take at once, at most.
IMAGES = 128


@lru_cache(maxsize=4096)
def block_of_pixels(
    channels: int, image: tuple[int, int], kernel: tuple[int, int], step: float, images: int
) -> tuple[int, int]:
    """Return the width of a block of pixels and how many channels of the source to read together.

    Args:
        channels: of the source, in a group.
        image: height and width of the source.
        kernel: pixels of the source that the kernel spans.
        step: pixels of the source from one pixel that is written to the next.
        images: in the batch.
    """

    def bytes_of(width: int, read: int) -> float:
        columns = min(image[1], (width - 1) * step + kernel[1])
        return 4 * min(images, IMAGES) * read * min(image[0], kernel[0]) * columns

    parts = max(1, -(-int(bytes_of(WIDTHS[-1], channels)) // MOST_BYTES))
    read = max(1, -(-channels // parts))
    fitting = (width for width in WIDTHS if bytes_of(width, read) <= MOST_BYTES)
    return next(fitting, WIDTHS[-1]), read


@lru_cache(maxsize=4096)
def bounds_of_parts(channels: int, read: int) -> np.ndarray:
    """Return int64 [parts + 1]: 0, read, 2 * read, ... and `channels`."""
    # One part at least: it writes what nothing is added to.
    firsts = np.arange(0, max(channels, 1), read, dtype=np.int64)
    return np.append(firsts, np.int64(channels))
