"""Data sets fetched as they are published, and checked by the checksums that are published too."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from gemkern.errors import GemkernError
from gemkern.files import write_atomically


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
# How often a file is asked for again that did not come, or not whole.
RETRIES = 2


def fetch(name: str, out: str | os.PathLike[str], mirror: str | None = None) -> list[Path]:
    """Fetch the files of a data set into the folder `out`, and unpack those that are archives.

    What is there already is not fetched again. Every file is whole or absent.

    Args:
        name: one of `NAMES`.
        mirror: the address of another folder with the same files.

    Raises:
        GemkernError: there is no such data set, pooch is not installed, a file cannot be fetched or
            written or is not what was published, or another stands in its place.
    """
    if name not in PUBLISHED:
        raise GemkernError(f"{name!r} cannot be fetched: choose one of {', '.join(NAMES)}")
    published, folder = PUBLISHED[name], Path(out).expanduser()
    address = mirror or published.address
    for file, digest in published.files.items():
        try:
            if not _is_there(folder / file, digest):
                _download(address, digest, folder / file)
        except GemkernError:
            raise
        except Exception as error:
            raise GemkernError(
                f"{file} could not be fetched from {address} into {folder} ({_reason(error)}): "
                "try again, or give another --mirror or --out"
            ) from error
    for file in published.files:
        if file.endswith(".tar.gz"):
            _unpack(folder / file, folder)
    return [folder / file for file in published.files]


def _is_there(path: Path, digest: str) -> bool:
    """Return whether a file is there; data sets share names, and none takes another's place."""
    if not path.exists():
        return False
    if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != digest:
        raise GemkernError(
            f"{path} is another file than the one that is published: remove it, or choose another "
            "--out"
        )
    return True


def _download(address: str, digest: str, path: Path) -> None:
    try:
        import pooch
    except ImportError as error:
        raise GemkernError(
            "pooch is not installed: pip install gemkern[fetch], or fetch the files by hand"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # A bar is for terminals alone; pooch takes one without a total for none.
    bar = tqdm(desc=path.name, total=1, unit="B", unit_scale=True, leave=False, disable=None)
    with TemporaryDirectory(prefix=".", dir=path.parent) as place, bar, _quiet(pooch.get_logger()):
        registry = {path.name: f"md5:{digest}"}
        store = pooch.create(place, address, registry=registry, retry_if_failed=RETRIES)
        fetched = store.fetch(path.name, progressbar=bar)
        # What pooch writes can be read by nobody else.
        write_atomically(path, partial(shutil.copyfile, fetched))


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    # Of a logger that no table of `logging` knows, a level is heard once and then remembered.
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _reason(error: BaseException) -> str:
    """Return the first sentence of the innermost error, which libraries wrap in their own."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.partition(". ")[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive, unless any would lie outside of `folder`."""
    try:
        with tarfile.open(archive) as content:
            members = content.getmembers()
            for member in members:
                name = Path(member.name)
                is_inside = not name.anchor and ".." not in name.parts
                if not (is_inside and (member.isfile() or member.isdir())):
                    raise GemkernError(
                        f"{archive} holds {member.name!r}, which is no file or leads out of "
                        f"{folder}: remove it, and give another --mirror"
                    )
            for member in members:
                if (file := content.extractfile(member)) is not None:
                    _write(folder / member.name, file.read())
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise GemkernError(
            f"{archive} cannot be unpacked into {folder} ({_reason(error)}): remove it and fetch "
            "it again"
        ) from error


def _write(path: Path, content: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
