"""Image files and folders of them, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gemkern.errors import GemkernError

RGB = "RGB"
# Pillow's modes of 8 bits a sample, and what they are read as.
_READ_AS = {"L": "L", "RGB": RGB, "RGBA": RGB, "P": RGB, "CMYK": RGB, "YCbCr": RGB}


def decode(path: Path, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Return the image in `path`, grey (mode L) as it is and every other as RGB.

    Args:
        formats: Pillow's names of those that are read; None for all.

    Raises:
        GemkernError: it cannot be read, or has other than 8 bits a sample.
    """
    try:
        with Image.open(path, formats=formats) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "an" if formats is None else f"a {' or '.join(formats)}"
        raise GemkernError(f"{path} is not {kind} image that can be read ({error})") from error
    if image.mode not in _READ_AS:
        raise GemkernError(f"{path} has the mode {image.mode}: save it as 8-bit grey or RGB")
    return image.convert(_READ_AS[image.mode])


def pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image that `decode` returned, uint8 [H, W, 1 or 3]."""
    found = np.asarray(image)
    return found.reshape(*found.shape[:2], -1)


def stacked(paths: Sequence[Path], side: int, read: Callable[[Path], Image.Image]) -> np.ndarray:
    """Return the images that `read` makes of `paths`, `side` pixels a side, uint8 [N, 3, H, W].

    They are written into one array as they come: a list of 100,000 would need the room twice.
    """
    found = np.empty((len(paths), 3, side, side), np.uint8)
    for place, path in enumerate(paths):
        found[place] = np.asarray(read(path).convert(RGB)).transpose(2, 0, 1)
    return found


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, but for hidden ones, in sorted order."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
