"""A folder of one's own images: train/CLASS/*.png and test/CLASS/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemkern.data.files import StrPath, data_folder
from gemkern.data.images import class_folders, decode, pixels
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_LAYOUT = "put the images of each class into train/CLASS and test/CLASS as png, jpg, jpeg or bmp"


def read(data_dir: StrPath | None) -> Source:
    """Read every png, jpg, jpeg and bmp of train/CLASS and test/CLASS, classes in sorted order.

    Grey images (mode L) give one channel, all others are read as RGB.

    Raises:
        GemkernError: a missing folder, a class without images or in one half alone, an image that
            cannot be read, or one whose size or mode is not that of the first.
    """
    root = data_folder(data_dir, "folder", _LAYOUT)
    classes = _classes(root / "train")
    if (other := _classes(root / "test")) != classes:
        odd = sorted(set(classes) ^ set(other))[0]
        raise GemkernError(f"class {odd} of {root} is in only one of train and test: {_LAYOUT}")
    first = _files(root / "train" / classes[0])[0]
    like = pixels(decode(first))
    train, test = (_read_split(root / half, classes, first, like) for half in ("train", "test"))
    return Source(train, test, len(classes))


def _classes(half: Path) -> list[str]:
    if not half.is_dir():
        raise GemkernError(f"{half} is not a folder: {_LAYOUT}")
    classes = class_folders(half)
    if not classes:
        raise GemkernError(f"{half} holds no class folders: {_LAYOUT}")
    return classes


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise GemkernError(f"{folder} holds no images: {_LAYOUT}")
    return files


def _read_split(half: Path, classes: list[str], first: Path, like: np.ndarray) -> Split:
    """Read one half; every image must have the shape of `like`, the image in `first`."""
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in _files(half / name):
            image = pixels(decode(path))
            if image.shape != like.shape:
                raise GemkernError(
                    f"{path} is {_describe(image)} but {first} is {_describe(like)}: "
                    "make all images the same size and mode"
                )
            images.append(image)
            labels.append(label)
    return Split.from_arrays(np.stack(images).transpose(0, 3, 1, 2), np.array(labels))


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"
