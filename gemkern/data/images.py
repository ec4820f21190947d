"""Image files and folders of them, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gemkern.errors import GemkernError
from gemkern.files import check_regular

RGB = "RGB"
# Pillow knows many more; one of them starts another program.
FORMATS = ("PNG", "JPEG", "BMP")
# As RGB, 200 MB.
MOST_PIXELS = 2**26
MOST_PIXELS_A_SIDE = 2**13
# Of a JPEG, each of which is decoded over all pixels, however few bytes it has; ten are usual.
MOST_SCANS = 100
_SCAN = b"\xff\xda"
# Pillow's modes of 8 bits a sample, and what they are read as.
_READ_AS = {
    "L": "L",
    "LA": "L",
    "RGB": RGB,
    "RGBA": RGB,
    "P": RGB,
    "PA": RGB,
    "CMYK": RGB,
    "YCbCr": RGB,
}
_OPAQUE = 255
# What unpackers of archives that were made on a Mac leave behind.
_LEFT_BY_MACS = "__MACOSX"


def decode(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return the image in `path`, grey (mode L) as it is and every other as RGB.

    It is turned as its EXIF orientation says. An alpha channel goes if it is opaque everywhere.
    What the file's headers say is checked before any of its pixels are decoded.

    Args:
        formats: those of `FORMATS` that are read, whatever the file is called.

    Raises:
        GemkernError: it cannot be read, is no file on a disk, has more than `MOST_PIXELS` or
            `MOST_SCANS`, other than 8 bits a sample, or a pixel that is transparent.
    """
    check_regular(path)
    try:
        with Image.open(path, formats=formats) as image:
            _check_header(path, image)
            image.load()
        turned = _opaque(path, ImageOps.exif_transpose(image))
        return turned.convert(_READ_AS[turned.mode])
    except GemkernError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        kind = f"{', '.join(formats[:-1])} or {formats[-1]}" if formats[1:] else formats[0]
        raise GemkernError(f"{path} is not a {kind} image that can be read ({error})") from error


def pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image that `decode` returned, uint8 [H, W, 1 or 3]."""
    found = np.asarray(image)
    return found.reshape(*found.shape[:2], -1)


def resized(image: Image.Image, side: int | None) -> Image.Image:
    """Return an image as a square of `side` pixels, bilinearly; as it is where that is None."""
    return image if side is None else image.resize((side, side), Image.Resampling.BILINEAR)


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
    return sorted(path.name for path in visible(folder) if path.is_dir())


def image_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return what is called by one of `suffixes` in `folder`, but for hidden files, sorted."""
    return sorted(path for path in visible(folder) if path.suffix.lower() in suffixes)


def visible(folder: Path) -> list[Path]:
    """Return what is in `folder`, but for what is hidden: "._name.png", "__MACOSX"."""
    return [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name != _LEFT_BY_MACS
    ]


def _check_header(path: Path, image: Image.Image) -> None:
    if image.mode not in _READ_AS:
        raise GemkernError(f"{path} has the mode {image.mode}: save it as 8-bit grey or RGB")
    if image.width * image.height > MOST_PIXELS:
        raise GemkernError(
            f"{path} has {image.width} x {image.height} pixels, more than {MOST_PIXELS}: make it "
            "smaller"
        )
    # Among what a scan encodes, 255 is never followed by anything but 0.
    if image.format == "JPEG" and (scans := path.read_bytes().count(_SCAN)) > MOST_SCANS:
        raise GemkernError(f"{path} has {scans} scans, more than {MOST_SCANS}: save it again")


def _opaque(path: Path, image: Image.Image) -> Image.Image:
    """Return the image without its alpha channel, if it has one."""
    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    if np.asarray(with_alpha.getchannel("A")).min() < _OPAQUE:
        raise GemkernError(
            f"{path} is transparent in places, and what is to be seen there is not known: save it "
            "without an alpha channel"
        )
    return with_alpha.convert(_READ_AS[image.mode])
