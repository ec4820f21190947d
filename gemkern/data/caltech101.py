"""Caltech-101 (Fei-Fei et al., 2004): photographs of all sizes, a folder a class, and no split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from gemkern.data.files import StrPath, data_folder
from gemkern.data.images import (
    MOST_PIXELS_A_SIDE,
    class_folders,
    decode,
    image_files,
    resized,
    stacked,
)
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError
from gemkern.numbers import whole_number

RESIZE = 224
_FOLDER = "101_ObjectCategories"
# Photographs of nothing in particular, published beside the classes.
_BACKGROUND = "BACKGROUND_Google"
_SUFFIX = ".jpg"
# The custom with this data set.
_TRAIN, _TEST = 30, 50
_REMEDY = f"unpack {_FOLDER}.tar.gz of Caltech-101"


def read(data_dir: StrPath | None, resize: int = RESIZE) -> Source:
    """Read the data set from `data_dir`, or from the folder 101_ObjectCategories inside it.

    Classes are the folders but BACKGROUND_Google, in sorted order, images their *.jpg. Which of
    them are for training is the same for everybody: the images of a class are put in the order of
    the SHA-256 of "CLASS/FILE"; the first 30 are for training, the next, 50 at most, are the test
    split. Every image is resized to a square, whatever shape it had, bilinearly by Pillow; grey
    ones are read as RGB.

    Args:
        resize: side of the square, in pixels.

    Raises:
        GemkernError: a folder is missing, a class has fewer than 31 images, an image cannot be
            read, or `resize` is no whole number of pixels.
    """
    resize = whole_number("resize", resize, 1, MOST_PIXELS_A_SIDE)
    parent = data_folder(data_dir, "caltech101", _REMEDY)
    inside = parent / _FOLDER
    root = inside if inside.is_dir() else parent
    classes = [name for name in class_folders(root) if name != _BACKGROUND]
    if not classes:
        raise GemkernError(f"{root} holds no class folders: {_REMEDY}")
    halves = [_divided(root / name) for name in classes]
    train, test = (_decoded([half[part] for half in halves], resize) for part in (0, 1))
    return Source(train, test, len(classes))


def _divided(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images of a class for training, and those to test with."""
    files = image_files(folder, (_SUFFIX,))
    if len(files) <= _TRAIN:
        raise GemkernError(
            f"{folder} holds {len(files)} JPEG images, and {_TRAIN} are for training and one or "
            f"more to test with: {_REMEDY}"
        )
    files.sort(key=_place)
    return files[:_TRAIN], files[_TRAIN : _TRAIN + _TEST]


def _place(path: Path) -> str:
    return hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()


def _decoded(by_class: Sequence[Sequence[Path]], side: int) -> Split:
    def read(path: Path) -> Image.Image:
        return resized(decode(path, ("JPEG",)), side)

    labels = [label for label, files in enumerate(by_class) for _ in files]
    paths = [path for files in by_class for path in files]
    return Split(torch.from_numpy(stacked(paths, side, read)), torch.tensor(labels))
