"""CIFAR-10 and CIFAR-100 in both layouts, bit for bit, and pickles that are not what they claim."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gemkern.data import load
from gemkern.data.cifar import read
from gemkern.errors import GemkernError

numbers = np.random.default_rng(0)
FOLDERS = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-binary", "cifar-100-python"),
}
TRAIN = {"cifar10": [f"data_batch_{part}" for part in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
CLASSES = {"cifar10": 10, "cifar100": 100}


def some_records(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pixels and labels, every class as often as every other."""
    labels = numbers.permutation(np.arange(count) % CLASSES[name])
    return numbers.integers(0, 256, (count, 3072), np.uint8), labels.astype(np.uint8)


COUNT = {"cifar10": 10, "cifar100": 200}
RECORDS = {
    name: {file: some_records(name, COUNT[name]) for file in (*TRAIN[name], TEST[name])}
    for name in FOLDERS
}


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: both kinds of string as byte strings."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_byte_string(self, text: str | bytes) -> None:
        content = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = save_byte_string
    dispatch[str] = save_byte_string


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")


def batch(name: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The dictionary of an official file."""
    names = {"filenames": [f"{i}.png" for i in range(len(labels))], "batch_label": "a batch"}
    if name == "cifar10":
        return {"data": pixels, "labels": labels.tolist(), **names}
    coarse = (labels % 20).tolist()
    return {"data": pixels, "fine_labels": labels.tolist(), "coarse_labels": coarse, **names}


def write_binary(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, (pixels, labels) in RECORDS[name].items():
        columns = [labels[:, None], pixels]
        if name == "cifar100":
            columns.insert(0, labels[:, None] % 20)
        (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())


def write_python(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, records in RECORDS[name].items():
        (folder / file).write_bytes(python2_pickle(batch(name, *records)))


WRITE = (write_binary, write_python)
Write = Callable[[str, Path], None]


@pytest.mark.parametrize("inside", [False, True], ids=["the folder", "its parent"])
@pytest.mark.parametrize("layout", [0, 1], ids=["binary", "python"])
@pytest.mark.parametrize("name", FOLDERS)
def test_reads_back_bit_for_bit(name: str, layout: int, inside: bool, tmp_path: Path) -> None:
    WRITE[layout](name, tmp_path / FOLDERS[name][layout] if inside else tmp_path)
    source = read(name, tmp_path)
    assert source.classes == CLASSES[name]
    train = [RECORDS[name][file] for file in TRAIN[name]]
    expected_train = [np.concatenate(parts) for parts in zip(*train, strict=True)]
    for split, (pixels, labels) in (
        (source.train, expected_train),
        (source.test, RECORDS[name][TEST[name]]),
    ):
        assert np.array_equal(split.images, pixels.reshape(-1, 3, 32, 32))
        assert np.array_equal(split.labels, labels)


def test_an_array_stored_by_columns(tmp_path: Path) -> None:
    write_python("cifar10", tmp_path)
    pixels, labels = RECORDS["cifar10"]["test_batch"]
    by_columns = batch("cifar10", np.asfortranarray(pixels), labels)
    (tmp_path / "test_batch").write_bytes(python2_pickle(by_columns))
    assert np.array_equal(read("cifar10", tmp_path).test.images.flatten(1), pixels)


@pytest.mark.parametrize("name", FOLDERS)
def test_load(name: str, tmp_path: Path) -> None:
    write_binary(name, tmp_path)
    dataset = load(name, tmp_path)
    assert dataset.classes == CLASSES[name]
    assert dataset.image_shape == (3, 32, 32)
    assert len(dataset.mean) == len(dataset.std) == 3
    assert (dataset.augment.crop_padding, dataset.augment.flip) == (4, True)


@pytest.mark.parametrize(("layout", "suffix"), [(0, ".bin"), (1, "")])
@pytest.mark.parametrize("file", [*TRAIN["cifar10"], "test_batch"])
def test_missing_file(file: str, layout: int, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS["cifar10"][layout]
    WRITE[layout]("cifar10", folder)
    (folder / f"{file}{suffix}").unlink()
    with pytest.raises(GemkernError) as caught:
        load("cifar10", tmp_path)
    assert str(caught.value) == (
        f"{folder / file}{suffix} is missing: unpack cifar-10-binary.tar.gz or "
        f"cifar-10-python.tar.gz from Alex Krizhevsky's page into {tmp_path}"
    )


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match=r"neither .* cifar-100-binary or cifar-100-python"):
        load("cifar100", tmp_path)


def test_folders_called_like_files_are_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(GemkernError, match="holds neither the files of cifar100"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize(("name", "size"), [("cifar10", 3073), ("cifar100", 3074)])
@pytest.mark.parametrize("bytes_missing", [1, 3000])
def test_truncated_binary(name: str, size: int, bytes_missing: int, tmp_path: Path) -> None:
    write_binary(name, tmp_path)
    path = tmp_path / f"{TEST[name]}.bin"
    path.write_bytes(path.read_bytes()[:-bytes_missing])
    with pytest.raises(GemkernError, match=f"{path} is damaged, expected records of {size} bytes"):
        load(name, tmp_path)


def test_empty_binary(tmp_path: Path) -> None:
    write_binary("cifar10", tmp_path)
    (tmp_path / "data_batch_4.bin").write_bytes(b"")
    with pytest.raises(GemkernError, match=r"data_batch_4.bin is damaged, .* but found 0 bytes"):
        load("cifar10", tmp_path)


def test_binary_label_out_of_range(tmp_path: Path) -> None:
    write_binary("cifar100", tmp_path)
    content = bytearray((tmp_path / "train.bin").read_bytes())
    content[3 * 3074 + 1] = 100
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(GemkernError, match="labels from 0 to 99 but found 100 for image 3"):
        load("cifar100", tmp_path)


class Malicious:
    """Unpickling this with the standard unpickler creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    write_python("cifar10", tmp_path)
    trace = tmp_path / "trace"
    poisoned = pickle.dumps({"data": Malicious(trace), "labels": []}, protocol=2)
    (tmp_path / "data_batch_2").write_bytes(poisoned)
    with pytest.raises(GemkernError, match=r"data_batch_2 is damaged, .* asks for \w+.open"):
        load("cifar10", tmp_path)
    assert not trace.exists()
    pickle.loads(poisoned)["data"].close()
    assert trace.exists()


PIXELS, LABELS = RECORDS["cifar10"]["data_batch_1"]
OFFICIAL = batch("cifar10", PIXELS, LABELS)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "an error .ValueError"),
        (python2_pickle(OFFICIAL)[:-20], "an error"),
        (b"a page that says 404", "an error"),
        (python2_pickle([PIXELS, LABELS.tolist()]), "it holds no dictionary"),
        (python2_pickle({"data": PIXELS}), "it has no entry b'labels'"),
        (python2_pickle({"labels": LABELS.tolist()}), "it has no entry b'data'"),
        (python2_pickle({**OFFICIAL, "data": LABELS.tolist()}), "an array is no array"),
        (python2_pickle({**OFFICIAL, "data": PIXELS.astype(np.float32)}), "has the dtype f4"),
        (python2_pickle({**OFFICIAL, "data": PIXELS[:, :-1]}), r"rows of 3072 .*\[10, 3071\]"),
        (python2_pickle({**OFFICIAL, "data": PIXELS[0]}), r"rows of 3072 pixels .* \[3072\]"),
        (python2_pickle({**OFFICIAL, "labels": LABELS.tolist()[1:]}), r"10 images .* \[9\]"),
        (python2_pickle({**OFFICIAL, "labels": [0.5] * 10}), "it asks for BINFLOAT"),
        (python2_pickle({**OFFICIAL, "labels": [None] * 10}), "no list of whole numbers"),
        (python2_pickle({**OFFICIAL, "labels": [2**80] * 10}), "OverflowError"),
        (python2_pickle({"data": PIXELS[:0], "labels": []}), "for each of 0 images"),
        (python2_pickle({**OFFICIAL, "labels": [0] * 9 + [-1]}), "found -1 for image 9"),
        (python2_pickle({**OFFICIAL, "labels": [10] * 10}), "found 10 for image 0"),
        (
            python2_pickle(OFFICIAL).replace(
                struct.pack("<i", PIXELS.size) + bytes(PIXELS), struct.pack("<i", 2) + b"ab"
            ),
            "2 bytes do not fill",
        ),
        (python2_pickle({**OFFICIAL, "data": Malicious}), "asks for .*Malicious"),
    ],
)
def test_not_the_official_dictionary(content: bytes, complaint: str, tmp_path: Path) -> None:
    write_python("cifar10", tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(GemkernError, match=f"{path} is damaged, .*{complaint}"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("keys", [str, str.encode], ids=["text", "bytes"])
@pytest.mark.parametrize("labels", [list, np.int64, np.uint8, ">i4"], ids=str)
def test_files_that_numpy_pickled_again(
    protocol: int, keys: Callable[[str], Any], labels: Any, tmp_path: Path
) -> None:
    write_python("cifar10", tmp_path)
    pixels, wanted = RECORDS["cifar10"]["test_batch"]
    named = wanted.tolist() if labels is list else wanted.astype(labels)
    again = {keys("data"): pixels, keys("labels"): named, keys("filenames"): ["0.png"] * 10}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(again, protocol=protocol))
    test = read("cifar10", tmp_path).test
    assert np.array_equal(test.images.flatten(1), pixels)
    assert np.array_equal(test.labels, wanted)


# What few bytes ask an unpickler for: four gigabytes of memo, or of room; and tuples of tuples,
# whose hash or whose text takes for ever.
NESTED = b"(t" + 100 * b"q\x00h\x00\x86"
GREEDY = {
    "memo": b"Nr" + struct.pack("<I", 2**29) + b".",
    "bytes": b"\x96" + struct.pack("<Q", 2**33) + b".",
    "text": b"X" + struct.pack("<I", 2**32 - 1) + b".",
    "hash": b"}" + NESTED + b"Ns.",
    "name": NESTED + NESTED + b"\x93.",
    "labels": b"}(X\x04\x00\x00\x00dataNX\x06\x00\x00\x00labels" + NESTED + b"u.",
    "shape": b"}X\x04\x00\x00\x00data"
    b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01("
    + 2**13 * (b"\x8a\xff" + b"\x7f" * 255)
    + b"tcnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R(K\x03X\x01\x00\x00\x00|tbNNtbs.",
    "encoded": b"}cnumpy\ndtype\nq\x00c_codecs\nencode\nX"
    + struct.pack("<I", 2**22)
    + b"x" * 2**22
    + b"X\x06\x00\x00\x00latin1\x86Rq\x010"
    + 2**16 * b"h\x01Ns"
    + b".",
    "operations": b"}" * (2**20 + 1) + b".",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", GREEDY)
def test_a_few_bytes_cannot_ask_for_much(form: str, tmp_path: Path) -> None:
    write_python("cifar10", tmp_path)
    (tmp_path / "data_batch_1").write_bytes(GREEDY[form])
    before = resource.getrlimit(resource.RLIMIT_AS)
    (now,) = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(now) + 2**30, before[1]))
    try:
        with pytest.raises(GemkernError, match=r"data_batch_1 is damaged") as caught:
            load("cifar10", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("layout", [0, 1], ids=["binary", "python"])
def test_a_pipe_is_no_file(layout: int, tmp_path: Path) -> None:
    WRITE[layout]("cifar10", tmp_path)
    path = tmp_path / ("data_batch_1.bin" if layout == 0 else "data_batch_1")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(GemkernError, match=f"{path} is a pipe, a socket or a device: give a file"):
        load("cifar10", tmp_path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    write_binary("cifar10", tmp_path)
    with (tmp_path / "data_batch_1.bin").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(GemkernError, match="expected at most 268435456 bytes but found more"):
        load("cifar10", tmp_path)
