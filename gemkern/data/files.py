"""Reading files that somebody downloaded: whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np

from gemkern.errors import GemkernError
from gemkern.files import check_regular

StrPath: TypeAlias = str | os.PathLike[str]

# The largest file that is published, of CIFAR-100, has 155 million bytes.
MOST_BYTES = 2**28


def data_folder(data_dir: StrPath | None, name: str, remedy: str) -> Path:
    """Return `data_dir` as a folder that exists.

    Args:
        remedy: how to get the files, the end of the error's sentence.

    Raises:
        GemkernError: no `data_dir`, or it is not a folder.
    """
    if data_dir is None:
        raise GemkernError(
            f"the data set {name!r} needs data_dir, the folder of its files: {remedy}"
        )
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise GemkernError(f"data_dir {folder} is not a folder: {remedy}")
    return folder


def read_bytes(path: Path, remedy: str) -> bytes:
    """Return what `path` holds, which is at most `MOST_BYTES`.

    Raises:
        GemkernError: it is missing, no file on a disk, or too long.
    """
    try:
        check_regular(path)
        check_length(path.stat().st_size, path, remedy)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise GemkernError(f"{path} is missing: {remedy}") from error


def check_length(length: int, path: Path, remedy: str) -> None:
    """Refuse more bytes than `MOST_BYTES`.

    Raises:
        GemkernError: there are more.
    """
    if length > MOST_BYTES:
        raise damaged(path, f"at most {MOST_BYTES} bytes", "more", remedy)


def damaged(path: Path, expected: str, found: str, remedy: str) -> GemkernError:
    """Return the error for a file that is not what it should be."""
    return GemkernError(f"{path} is damaged, expected {expected} but found {found}: {remedy}")


def check_labels(labels: np.ndarray, classes: int, path: Path, remedy: str) -> None:
    """Refuse labels outside 0 to `classes` - 1.

    Raises:
        GemkernError: naming the first such label and its place.
    """
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        expected = f"labels from 0 to {classes - 1}"
        raise damaged(path, expected, f"{labels[first]} for image {first}", remedy)
