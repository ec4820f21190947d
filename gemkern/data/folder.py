"""A folder of one's own images: train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gemkern.data.files import StrPath, data_folder
from gemkern.data.images import (
    MOST_PIXELS_A_SIDE,
    class_folders,
    decode,
    image_files,
    pixels,
    resized,
    visible,
)
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError, printable
from gemkern.numbers import whole_number

TEST = "test"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_LAYOUT = "put the images of each class into train/CLASS and test/CLASS as png, jpg, jpeg or bmp"


def read(data_dir: StrPath | None, resize: int | None = None, test_folder: str = TEST) -> Source:
    """Read every png, jpg, jpeg and bmp of train/CLASS and test/CLASS, classes in sorted order.

    Grey images (mode L) give one channel, all others are read as RGB (`gemkern.data.images.decode`
    says what becomes of alpha and orientation). Hidden files and folders are passed over; a warning
    counts whatever else is not read.

    Args:
        resize: side of the square, in pixels, to which every image is resized, bilinearly by
            Pillow; None where all are of one size.
        test_folder: the folder of the images to test with, "val" for that of validation.

    Raises:
        GemkernError: a missing folder, a class without images or in one half alone, an image that
            cannot be read, one whose size or mode is not that of the first, or `resize` is no whole
            number of pixels.
    """
    if resize is not None:
        resize = whole_number("resize", resize, 1, MOST_PIXELS_A_SIDE)
    root = data_folder(data_dir, "folder", _LAYOUT)
    halves = [root / "train", _test_half(root, test_folder)]
    classes = _classes(halves[0])
    if (other := _classes(halves[1])) != classes:
        odd = sorted(set(classes) ^ set(other))[0]
        raise GemkernError(
            f"class {odd} of {root} is in only one of train and {test_folder}: {_LAYOUT}"
        )
    _count_what_is_not_read(root, halves, classes)

    def decoded(path: Path) -> np.ndarray:
        return pixels(resized(decode(path), resize))

    first = _files(halves[0] / classes[0])[0]
    like = decoded(first)
    train, test = (_read_split(half, classes, first, like, decoded) for half in halves)
    return Source(train, test, len(classes))


def _test_half(root: Path, name: str) -> Path:
    if Path(name).name != name or name in ("", ".."):
        raise GemkernError(f"test_folder is {name!r}: give the name of a folder beside train")
    if not (root / name).is_dir() and (root / "val").is_dir():
        raise GemkernError(
            f"{root / name} is not a folder, but val is there: to test with it, set test_folder=val"
        )
    return root / name


def _classes(half: Path) -> list[str]:
    if not half.is_dir():
        raise GemkernError(f"{half} is not a folder: {_LAYOUT}")
    classes = class_folders(half)
    if not classes:
        raise GemkernError(f"{half} holds no class folders: {_LAYOUT}")
    return classes


def _files(folder: Path) -> list[Path]:
    files = image_files(folder, _SUFFIXES)
    if not files:
        raise GemkernError(f"{folder} holds no images: {_LAYOUT}")
    return files


def _count_what_is_not_read(root: Path, halves: list[Path], classes: list[str]) -> None:
    """Warn of files of other kinds, and of what is deeper or less deep than images are."""
    inside = [path for half in halves for name in classes for path in visible(half / name)]
    folders = [path for path in inside if path.is_dir()]
    others = [path for path in inside if not path.is_dir() and path.suffix.lower() not in _SUFFIXES]
    others += [path for half in halves for path in visible(half) if not path.is_dir()]
    if others or folders:
        first = min([*others, *folders]).relative_to(root)
        warnings.warn(
            printable(
                f"{root}: {len(others)} files and {len(folders)} folders are not read, {first} the "
                f"first of them: {_LAYOUT}"
            ),
            stacklevel=2,
        )


def _read_split(
    half: Path,
    classes: list[str],
    first: Path,
    like: np.ndarray,
    decoded: Callable[[Path], np.ndarray],
) -> Split:
    """Read one half; every image must have the shape of `like`, the image in `first`."""
    labelled = [(path, label) for label, name in enumerate(classes) for path in _files(half / name)]
    height, width, channels = like.shape
    images = np.empty((len(labelled), channels, height, width), np.uint8)
    for place, (path, _) in enumerate(labelled):
        image = decoded(path)
        if image.shape != like.shape:
            raise GemkernError(
                f"{path} is {_describe(image)} but {first} is {_describe(like)}: "
                "make all images the same mode, and the same size or set resize"
            )
        images[place] = image.transpose(2, 0, 1)
    return Split(torch.from_numpy(images), _labels(labelled))


def _labels(labelled: list[tuple[Path, int]]) -> Tensor:
    return torch.tensor([label for _, label in labelled])


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"
