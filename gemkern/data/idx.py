"""MNIST and Fashion-MNIST: IDX files, gzipped as they are published or unpacked."""

from __future__ import annotations

import gzip
import io
import zlib
from math import prod
from pathlib import Path

import numpy as np

from gemkern.data import files
from gemkern.data.files import StrPath, check_labels, damaged, data_folder, read_bytes
from gemkern.data.split import Source, Split
from gemkern.errors import GemkernError

_CLASSES = 10
_UNSIGNED_BYTE = 0x08
_IMAGE_SHAPE = (28, 28)
_ORIGINS = {
    "mnist": "MNIST from Yann LeCun's page",
    "fashion-mnist": "Fashion-MNIST from the Zalando Research repository",
}
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def read(name: str, data_dir: StrPath | None) -> Source:
    """Read {train,t10k}-{images-idx3,labels-idx1}-ubyte, each with or without .gz, in `data_dir`.

    A dot may stand before "idx", and the files may lie where torchvision puts them, in MNIST/raw or
    FashionMNIST/raw of `data_dir`.

    Args:
        name: "mnist" or "fashion-mnist"; both use the same file names.

    Raises:
        GemkernError: `data_dir` or a file is missing, or a file is damaged.
    """
    origin = _ORIGINS[name]
    folder = data_folder(data_dir, name, f"download the four .gz files of {origin} into it")
    folder = _place(folder, _TORCHVISION[name])
    train, test = (_read_split(folder, part, origin) for part in ("train", "t10k"))
    return Source(train, test, _CLASSES)


def _read_split(folder: Path, part: str, origin: str) -> Split:
    images_path, images = _read_idx(folder, f"{part}-{_IMAGES}", _IMAGE_SHAPE, origin)
    labels_path, labels = _read_idx(folder, f"{part}-{_LABELS}", (), origin)
    if len(images) != len(labels):
        raise GemkernError(
            f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels: "
            f"download both of {origin}"
        )
    check_labels(labels, _CLASSES, labels_path, f"download it again, {origin}")
    return Split.from_arrays(images[:, None], labels)


def _read_idx(
    folder: Path, name: str, item_shape: tuple[int, ...], origin: str
) -> tuple[Path, np.ndarray]:
    """Return the file that was read and its array, uint8 [N, *item_shape].

    The format: two zero bytes, the type, the number of dimensions, the big-endian 32-bit size of
    each dimension, then the elements in row-major order.
    """
    path = _file(folder, name) or folder / f"{name}.gz"
    remedy = f"download {name}.gz of {origin} into {folder}"
    content = read_bytes(path, remedy)
    if path.suffix == ".gz":
        content = _decompress(content, path, remedy)

    dims = 1 + len(item_shape)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dims))
    if content[:4] != magic:
        raise damaged(path, f"the first bytes {magic.hex()}", content[:4].hex() or "none", remedy)
    body = 4 + 4 * dims
    if len(content) < body:
        raise damaged(path, f"a header of {body} bytes", f"{len(content)} bytes", remedy)
    shape = tuple(np.frombuffer(content[4:body], ">u4").tolist())
    if shape[0] == 0 or shape[1:] != item_shape:
        expected = f"the shape ({', '.join(map(str, ('N', *item_shape)))}) with N > 0"
        raise damaged(path, expected, str(shape), remedy)
    if len(content) != body + prod(shape):
        expected = f"{body + prod(shape)} bytes for the shape {shape}"
        raise damaged(path, expected, f"{len(content)} bytes", remedy)
    return path, np.frombuffer(content, np.uint8, offset=body).reshape(shape)


def _place(folder: Path, torchvision: str) -> Path:
    """Return the first folder that holds any of the files: this one, or torchvision's in it."""
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (_IMAGES, _LABELS)]
    for place in (folder, folder / torchvision / "raw", folder / "raw"):
        if any(_file(place, name) for name in names):
            return place
    return folder


def _file(folder: Path, name: str) -> Path | None:
    """Return the file of a name, by one of the ways in which it is written; None if none is."""
    dotted = name.replace("-idx", ".idx")
    for written in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        path = folder / written
        # Some unpackers make a folder of each file's name.
        if path.exists() and not path.is_dir():
            return path
    return None


def _decompress(content: bytes, path: Path, remedy: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(files.MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, "a whole gzip file", f"an error ({error})", remedy) from error
    # Whoever reads one more than there may be knows whether there are more.
    files.check_length(len(found), path, remedy)
    return found
