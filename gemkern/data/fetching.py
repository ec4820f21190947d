"""Data sets fetched as they are published, and checked by the checksums that are published too."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from gemkern.errors import GemkernError


@dataclass(frozen=True)
class Published:
    """Where a data set is published.

    Attributes:
        address: of the folder of its files.
        files: their names, with their MD5 in hex.
    """

    address: str
    files: dict[str, str]


PUBLISHED = {
    "cifar10": Published(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    "cifar100": Published(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
    ),
    "mnist": Published(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
NAMES = tuple(PUBLISHED)


def fetch(name: str, out: str | os.PathLike[str], mirror: str | None = None) -> list[Path]:
    """Fetch the files of a data set into the folder `out`; those that are there are not again.

    Args:
        name: one of `NAMES`.
        mirror: the address of another folder with the same files.

    Raises:
        GemkernError: there is no such data set, pooch is not installed, or a file cannot be fetched
            or is not what was published.
    """
    if name not in PUBLISHED:
        raise GemkernError(f"{name!r} cannot be fetched: choose one of {', '.join(NAMES)}")
    try:
        import pooch
    except ImportError as error:
        raise GemkernError(
            "pooch is not installed: pip install gemkern[fetch], or fetch the files by hand"
        ) from error
    published = PUBLISHED[name]
    address = published.address if mirror is None else mirror.rstrip("/") + "/"
    registry = {file: f"md5:{digest}" for file, digest in published.files.items()}
    store = pooch.create(path=Path(out), base_url=address, registry=registry, retry_if_failed=2)
    pooch.get_logger().setLevel("WARNING")
    found = []
    for file in published.files:
        try:
            found.append(Path(store.fetch(file, progressbar=True)))
        except Exception as error:
            raise GemkernError(
                f"{file} could not be fetched from {address} ({error}): try again, or give another "
                "--mirror"
            ) from error
    for path in found:
        if path.name.endswith(".tar.gz"):
            _unpack(path, Path(out))
    return found


def _unpack(archive: Path, out: Path) -> None:
    """Unpack an archive whose checksum was right, and nothing outside of `out`."""
    with tarfile.open(archive) as content:
        content.extractall(out, filter="data")
