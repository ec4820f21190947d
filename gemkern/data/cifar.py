"""CIFAR-10 and CIFAR-100, in the binary and the Python layout, as they are published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemkern.data.cifar_pickle import decode_pickle
from gemkern.data.files import StrPath, check_labels, damaged, data_folder, read_bytes
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError

_IMAGE_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class _Layout(NamedTuple):
    """The files of one archive; `decode(content, path, remedy)` gives pixels and labels of one."""

    folder: str
    train: tuple[str, ...]
    test: str
    decode: Callable[[bytes, Path, str], tuple[np.ndarray, np.ndarray]]


class _Edition(NamedTuple):
    classes: int
    archives: str
    layouts: tuple[_Layout, ...]


def _decode_binary(
    content: bytes, path: Path, remedy: str, *, label_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split records of `label_bytes` labels, the last of which is the class, and 3,072 pixels."""
    size = label_bytes + _PIXELS
    if not content or len(content) % size:
        raise damaged(path, f"records of {size} bytes", f"{len(content)} bytes", remedy)
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, label_bytes:], records[:, label_bytes - 1]


_EDITIONS = {
    "cifar10": _Edition(
        classes=10,
        archives="cifar-10-binary.tar.gz or cifar-10-python.tar.gz",
        layouts=(
            _Layout(
                "cifar-10-batches-bin",
                tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
                "test_batch.bin",
                partial(_decode_binary, label_bytes=1),
            ),
            _Layout(
                "cifar-10-batches-py",
                tuple(f"data_batch_{part}" for part in range(1, 6)),
                "test_batch",
                partial(decode_pickle, label_key=b"labels", pixels=_PIXELS),
            ),
        ),
    ),
    "cifar100": _Edition(
        classes=100,
        archives="cifar-100-binary.tar.gz or cifar-100-python.tar.gz",
        layouts=(
            _Layout(
                "cifar-100-binary",
                ("train.bin",),
                "test.bin",
                partial(_decode_binary, label_bytes=2),
            ),
            _Layout(
                "cifar-100-python",
                ("train",),
                "test",
                partial(decode_pickle, label_key=b"fine_labels", pixels=_PIXELS),
            ),
        ),
    ),
}


def read(name: str, data_dir: StrPath | None) -> Source:
    """Read the data set from `data_dir`, or from the archive's own folder inside it.

    Where both layouts are there, the binary one is read.

    Args:
        name: "cifar10" or "cifar100" (its 100 fine classes).

    Raises:
        GemkernError: `data_dir` or a file is missing, or a file is damaged.
    """
    edition = _EDITIONS[name]
    archives = f"{edition.archives} from Alex Krizhevsky's page"
    parent = data_folder(data_dir, name, f"give the folder where you unpacked {archives}")
    remedy = f"unpack {archives} into {parent}"
    folder, layout = _find(name, parent, remedy)

    parts = []
    for file in (*layout.train, layout.test):
        path = folder / file
        pixels, labels = layout.decode(read_bytes(path, remedy), path, remedy)
        check_labels(labels, edition.classes, path, remedy)
        parts.append((pixels.reshape(-1, *_IMAGE_SHAPE), labels))
    *train, test = parts
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Source(Split.from_arrays(images, labels), Split.from_arrays(*test), edition.classes)


def _find(name: str, parent: Path, remedy: str) -> tuple[Path, _Layout]:
    """Return the first folder that holds any file of a layout, and that layout."""
    layouts = _EDITIONS[name].layouts
    for layout in layouts:
        for folder in (parent, parent / layout.folder):
            if any((folder / file).is_file() for file in (*layout.train, layout.test)):
                return folder, layout
    subfolders = " or ".join(layout.folder for layout in layouts)
    raise GemkernError(f"{parent} holds neither the files of {name} nor {subfolders}: {remedy}")
