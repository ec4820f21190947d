"""Fuzzers of the readers of MNIST's and CIFAR's files."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.child import reading
from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.laying import STRANGE, lay
from benchmarks.fuzz.mutations import Edit, edited, edits
from gemkern.data import load

# Two images of each class are what a data set has at least.
TRAIN, TEST, CLASSES = 20, 10, 10
WRITTEN = ("{}", "{}.gz", "dotted", "dotted.gz")
PLACES = ("", "raw/", "MNIST/raw/", "FashionMNIST/raw/")


class Idx(NamedTuple):
    """Four files of MNIST, one of which is spoiled."""

    spoiled: int
    written: str
    place: str
    sizes: tuple[int, ...] | None
    edits: list[Edit]
    packed: list[Edit]
    strange: str | None
    limit: int | None


def idx_inputs() -> st.SearchStrategy[Idx]:
    """Return files whose header, body or gzip is wrong, in any of the places."""
    size = st.sampled_from((0, 1, 10, 20, 28, 29, 2**31, 2**32 - 1))
    return st.builds(
        Idx,
        st.integers(0, 3),
        st.sampled_from(WRITTEN),
        st.sampled_from(PLACES),
        st.none() | st.none() | st.none() | st.lists(size, min_size=1, max_size=4).map(tuple),
        edits(2),
        st.just([]) | st.just([]) | edits(2),
        st.sampled_from((*[None] * 40, *STRANGE)),
        st.sampled_from((*[None] * 8, 10, 11, 1, 0, -1, 2**70)),
    )


def try_idx(value: Idx, folder: Path) -> None:
    """Lay the files, and load them."""
    files: dict[str, bytes | str] = {}
    for number, (name, whole) in enumerate(_idx_files().items()):
        content: bytes | str = whole
        written = "{}"
        if number == value.spoiled:
            sized = whole if value.sizes is None else _header(value.sizes) + whole[16:]
            content = edited(sized, value.edits)
            written = value.written
            if written.endswith(".gz"):
                content = edited(gzip.compress(content, 1), value.packed)
            content = value.strange or content
        dotted = name.replace("-idx", ".idx")
        files[value.place + written.replace("dotted", dotted).format(name)] = content
    lay(folder, files)
    with reading():
        load("mnist", folder, train_limit=value.limit)


@functools.cache
def _idx_files() -> dict[str, bytes]:
    numbers = np.random.default_rng(0)
    files = {}
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = numbers.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % CLASSES
        files[f"{part}-images-idx3-ubyte"] = _header(images.shape) + images.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = _header(labels.shape) + labels.tobytes()
    return files


def _header(sizes: tuple[int, ...]) -> bytes:
    return struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)


class Cifar(NamedTuple):
    """The six files of CIFAR-10, one of which is spoiled.

    Attributes:
        spoiled: which of them.
        form: "binary", or how the dictionary is pickled: by Python 2, or by a protocol.
        entries: of the dictionary, what stands in the place of those that belong there.
        program: operations of a pickle, in the place of a dictionary; None for one.
    """

    spoiled: int
    form: int | str
    entries: dict[str, str]
    program: list[str] | None
    edits: list[Edit]
    strange: str | None


COUNT, PIXELS = 4, 3072
FILES = (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch")


def cifar_inputs() -> st.SearchStrategy[Cifar]:
    """Return both layouts, with other entries, other operations and other bytes."""
    return st.builds(
        Cifar,
        st.integers(0, 5),
        st.sampled_from(("binary", "python 2", 2, 3, 4, 5)),
        st.dictionaries(
            st.sampled_from(("data", "labels", "filenames", "more")),
            st.sampled_from(tuple(_entries())),
            max_size=2,
        ),
        st.none() | st.none() | st.lists(st.sampled_from(tuple(OPERATIONS)), max_size=30),
        edits(2),
        st.sampled_from((*[None] * 30, *STRANGE)),
    )


def try_cifar(value: Cifar, folder: Path) -> None:
    """Lay the files, and load them."""
    files: dict[str, bytes | str] = {}
    for number, name in enumerate(FILES):
        labels = [(COUNT * number + i) % CLASSES for i in range(COUNT)]
        if value.form == "binary":
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], _pixels()], axis=1)
            name, content = f"{name}.bin", rows.tobytes()
        else:
            batch = {"data": _pixels(), "labels": labels}
            if number == value.spoiled:
                content = _spoiled(value, batch)
            else:
                content = pickled(batch, value.form)
        if number == value.spoiled:
            files[name] = value.strange or edited(content, value.edits)
        else:
            files[name] = content
    lay(folder, files)
    with reading():
        load("cifar10", folder)


@functools.cache
def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, PIXELS), np.uint8)


def _spoiled(value: Cifar, batch: dict[str, Any]) -> bytes:
    if value.program is not None:
        return b"".join(OPERATIONS[name] for name in value.program) + b"."
    others = {name: _entries()[kind] for name, kind in value.entries.items()}
    return pickled(batch | others, value.form)


def pickled(batch: dict[str, Any], form: int | str) -> bytes:
    """Return a dictionary as NumPy's or CIFAR's authors pickled it."""
    if form == "python 2":
        buffer = io.BytesIO()
        Python2Pickler(buffer, protocol=2).dump(batch)
        return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")
    return pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=int(form))


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: both kinds of string as byte strings."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_byte_string(self, text: str | bytes) -> None:
        """Write a string of either kind."""
        content = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = save_byte_string
    dispatch[str] = save_byte_string


@functools.cache
def _entries() -> dict[str, Any]:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    numbers = np.arange(COUNT * PIXELS) % 100
    return {
        "nothing": None,
        "text": "cat",
        "a number": 3,
        "a huge number": 2**2000,
        "labels": [1, 2, 3, 4],
        "labels beyond": [1, 2, 3, 10],
        "labels below": [-1, 0, 0, 0],
        "labels of a long list": [0] * 5000,
        "labels that are huge": [2**80] * COUNT,
        "fractions": [0.5] * COUNT,
        "lists in lists": deep,
        "a dictionary": {"data": [1]},
        "a set": {1, 2},
        "a function": print,
        "a class": io.BytesIO,
        "an array of labels": np.arange(COUNT),
        "an array of big-endian labels": np.arange(COUNT, dtype=">i4"),
        "an array of fractions": np.array([0.5, 1, 2]),
        "an array of objects": np.array([None, 1, "a"], object),
        "an array of texts": np.array(["a", "b", "c"]),
        "an array of dates": np.array([0, 1, 2], "M8[s]"),
        "pixels by columns": np.asfortranarray(numbers.reshape(COUNT, PIXELS).astype(np.uint8)),
        "pixels of another width": numbers.reshape(2 * COUNT, -1).astype(np.uint8),
        "pixels in three dimensions": numbers.reshape(COUNT, 3, -1).astype(np.uint8),
        "pixels of no dimension": np.uint8(3),
        "no pixels": np.zeros((0, PIXELS), np.uint8),
        "wide pixels": numbers.reshape(COUNT, PIXELS),
        "a record": np.zeros(3, [("a", "u1"), ("b", "f4")]),
    }


# Pieces of pickles, most of which such files have, in any order.
OPERATIONS = {
    **{name: code for name, code in vars(pickle).items() if name in (
        "MARK", "POP", "DUP", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "NONE", "NEWTRUE", "TUPLE",
        "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS",
        "MEMOIZE", "STACK_GLOBAL", "NEWOBJ", "OBJ", "EMPTY_SET", "STOP",
    )},
    "put": b"q\0", "get": b"h\0", "put far": b"r\xff\xff\xff\x7f", "get far": b"j\xff\xff\xff\x7f",
    "three": b"K\x03", "minus one": b"J\xff\xff\xff\xff", "huge": b"\x8a\xff" + 255 * b"\x7f",
    "data": b"X\4\0\0\0data", "labels": b"X\6\0\0\0labels", "latin1": b"X\6\0\0\0latin1",
    "bytes": b"C\4\0\1\2\3", "many bytes": b"\x8e\0\0\0\0\2\0\0\0", "u1": b"X\2\0\0\0u1",
    "less": b"X\1\0\0\0<",
    "array": b"cnumpy.core.multiarray\n_reconstruct\n", "ndarray": b"cnumpy\nndarray\n",
    "dtype": b"cnumpy\ndtype\n", "buffer": b"cnumpy._core.numeric\n_frombuffer\n",
    "encode": b"c_codecs\nencode\n", "system": b"cos\nsystem\n", "frame": b"\x95" + 8 * b"\xff",
}  # fmt: skip

WHOLE_IDX = Idx(0, "{}", "", None, [], [], None, None)
FUZZERS = (
    Fuzzer("idx", try_idx, idx_inputs, WHOLE_IDX),
    Fuzzer("cifar", try_cifar, cifar_inputs, Cifar(0, "binary", {}, None, [], None)),
)
