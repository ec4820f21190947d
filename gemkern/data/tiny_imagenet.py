"""TinyImageNet, as it is published: 200 classes of ImageNet in 64 x 64 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from gemkern.data.files import StrPath, damaged, data_folder, read_bytes
from gemkern.data.images import decode, image_files, stacked
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError

_FOLDER = "tiny-imagenet-200"
_CLASSES = "wnids.txt"
_ANNOTATIONS = "val_annotations.txt"
_SIDE = 64
_SUFFIX = ".jpeg"
_REMEDY = f"unpack {_FOLDER}.zip from Stanford's CS231N page"


def read(data_dir: StrPath | None) -> Source:
    """Read the data set from `data_dir`, or from the folder tiny-imagenet-200 inside it.

    Training images are train/WNID/images/*.JPEG, in sorted order. The test split is what is
    published for validation, val/images with val/val_annotations.txt, in its order; what is
    published for testing has no labels and is not read. Classes are the WNIDs of wnids.txt in
    sorted order. All images are JPEG; grey ones, of which there are a few, are read as RGB.

    Raises:
        GemkernError: `data_dir`, a folder or a file is missing, or a file is not what it should be.
    """
    parent = data_folder(data_dir, "tiny-imagenet", _REMEDY)
    inside = parent / _FOLDER
    root = parent if (parent / _CLASSES).is_file() or not inside.is_dir() else inside
    classes = _read_classes(root / _CLASSES)
    train = [(path, classes[wnid]) for wnid in classes for path in _files(root, wnid)]
    test = _annotated(root / "val", classes)
    return Source(_decoded(train), _decoded(test), len(classes))


def _read_classes(path: Path) -> dict[str, int]:
    """Return the label of each class, by WNID and in the order of labels."""
    wnids = _lines(path)
    if not wnids or len(set(wnids)) < len(wnids):
        found = "none" if not wnids else "one of them twice"
        raise damaged(path, "a WNID a line", found, _REMEDY)
    return {wnid: label for label, wnid in enumerate(sorted(wnids))}


def _files(root: Path, wnid: str) -> list[Path]:
    folder = root / "train" / wnid / "images"
    if not folder.is_dir():
        raise GemkernError(f"{folder} is not a folder: {_REMEDY}")
    files = image_files(folder, (_SUFFIX,))
    if not files:
        raise GemkernError(f"{folder} holds no JPEG images: {_REMEDY}")
    return files


def _annotated(folder: Path, classes: dict[str, int]) -> list[tuple[Path, int]]:
    """Return the images that val_annotations.txt names, each line a file, a WNID and a box."""
    path = folder / _ANNOTATIONS
    found = []
    for number, line in enumerate(_lines(path), start=1):
        name, wnid, *_ = [*line.split("\t"), "", ""]
        if wnid not in classes or Path(name).name != name:
            expected = f"a file and a WNID of {_CLASSES}, tabs between, in line {number}"
            raise damaged(path, expected, repr(line), _REMEDY)
        found.append((folder / "images" / name, classes[wnid]))
    if not found:
        raise damaged(path, "a file and a WNID a line", "none", _REMEDY)
    return found


def _lines(path: Path) -> list[str]:
    text = read_bytes(path, _REMEDY).decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _decoded(images: Sequence[tuple[Path, int]]) -> Split:
    paths, labels = zip(*images, strict=True)
    return Split(torch.from_numpy(stacked(paths, _SIDE, _decode)), torch.tensor(labels))


def _decode(path: Path) -> Image.Image:
    image = decode(path, ("JPEG",))
    if image.size != (_SIDE, _SIDE):
        found = f"{image.width} x {image.height}"
        raise damaged(path, f"{_SIDE} x {_SIDE} pixels", found, _REMEDY)
    return image
