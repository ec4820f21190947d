"""MNIST and Fashion-MNIST read back bit for bit; every damage is told in a sentence."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gemkern.data import files, load
from gemkern.data.idx import read
from gemkern.errors import GemkernError

numbers = np.random.default_rng(0)
PARTS = {
    "train": (
        numbers.integers(0, 256, (40, 28, 28), np.uint8),
        numbers.permutation(np.repeat(np.arange(10, dtype=np.uint8), 4)),
    ),
    "t10k": (
        numbers.integers(0, 256, (20, 28, 28), np.uint8),
        numbers.permutation(np.repeat(np.arange(10, dtype=np.uint8), 2)),
    ),
}
FILES = {
    f"{part}-{kind}-idx{array.ndim}-ubyte": array
    for part, arrays in PARTS.items()
    for kind, array in zip(("images", "labels"), arrays, strict=True)
}


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    for name, array in FILES.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    for name, array in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("form", ["unpacked", "published"])
def test_reads_back_bit_for_bit(name: str, form: str, request: pytest.FixtureRequest) -> None:
    source = read(name, request.getfixturevalue(form))
    assert source.classes == 10
    for split, part in ((source.train, "train"), (source.test, "t10k")):
        images, labels = PARTS[part]
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert np.array_equal(split.images, images[:, None])
        assert np.array_equal(split.labels, labels)


def test_load_knows_both_names_and_how_they_vary(published: Path) -> None:
    mnist, fashion = load("mnist", published), load("fashion-mnist", str(published))
    assert (mnist.name, fashion.name) == ("mnist", "fashion-mnist")
    assert mnist.image_shape == fashion.image_shape == (1, 28, 28)
    assert (mnist.augment.crop_padding, mnist.augment.flip) == (2, False)
    assert (fashion.augment.crop_padding, fashion.augment.flip) == (2, True)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(name: str, published: Path) -> None:
    (published / f"{name}.gz").unlink()
    with pytest.raises(GemkernError) as caught:
        load("fashion-mnist", published)
    assert str(caught.value) == (
        f"{published / name}.gz is missing: download {name}.gz of Fashion-MNIST from the Zalando "
        f"Research repository into {published}"
    )


def test_missing_mnist_names_its_origin(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match="of MNIST from Yann LeCun's page"):
        load("mnist", tmp_path)


GOOD = idx(PARTS["train"][0])
HUGE = np.zeros((1, 28, 27), np.uint8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (GOOD[:-1], r"expected 31376 bytes for the shape \(40, 28, 28\) but found 31375 bytes"),
        (GOOD + b"\0", "but found 31377 bytes"),
        (b"", "expected the first bytes 00000803 but found none"),
        (GOOD[:9], "expected a header of 16 bytes but found 9 bytes"),
        (b"\0\0\x0d\x03" + GOOD[4:], "expected the first bytes 00000803 but found 00000d03"),
        (idx(PARTS["train"][1]), "expected the first bytes 00000803 but found 00000801"),
        (idx(HUGE), r"expected the shape \(N, 28, 28\) with N > 0 but found \(1, 28, 27\)"),
        (idx(HUGE[:0]), r"expected the shape .* but found \(0, 28, 27\)"),
        (idx(np.zeros((0, 28, 28), np.uint8)), r"with N > 0 but found \(0, 28, 28\)"),
    ],
)
def test_damaged_images(content: bytes, complaint: str, unpacked: Path) -> None:
    path = unpacked / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(GemkernError, match=f"{path} is damaged, .*{complaint}: download"):
        load("mnist", unpacked)


def test_wrong_magic_of_labels(unpacked: Path) -> None:
    (unpacked / "t10k-labels-idx1-ubyte").write_bytes(GOOD)
    with pytest.raises(GemkernError, match="expected the first bytes 00000801"):
        load("mnist", unpacked)


def with_flipped_bits(content: bytes, place: int, bits: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= bits
    return bytes(damaged)


CHECKSUM = -8
FIRST_BLOCK = 10  # its low three bits: last block or not, and the kind of compression


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: with_flipped_bits(content, CHECKSUM, 1),
        lambda content: with_flipped_bits(content, len(content) // 2, 1),
        lambda content: content[:FIRST_BLOCK] + b"\x07" + content[FIRST_BLOCK + 1 :],
        lambda content: content[:-100],
        lambda content: GOOD,
    ],
    ids=["checksum", "body", "kind of block", "truncated", "not gzip"],
)
def test_damaged_gzip(damage: Callable[[bytes], bytes], published: Path) -> None:
    path = published / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GemkernError, match=f"{path} is damaged, expected a whole gzip file"):
        load("fashion-mnist", published)


def test_label_out_of_range(unpacked: Path) -> None:
    labels = PARTS["train"][1].copy()
    labels[7] = 10
    (unpacked / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(GemkernError, match="expected labels from 0 to 9 but found 10 for image 7"):
        load("mnist", unpacked)


def test_images_and_labels_of_different_number(unpacked: Path) -> None:
    (unpacked / "t10k-labels-idx1-ubyte").write_bytes(idx(PARTS["t10k"][1][:-1]))
    with pytest.raises(GemkernError, match=r"holds 20 images but .*ubyte 19 labels"):
        load("mnist", unpacked)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", ""),
        ("mnist", "MNIST/raw"),
        ("mnist", "raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("mark", [".", "-"])
def test_names_and_places_of_other_packages(
    mark: str, name: str, place: str, suffix: str, tmp_path: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in FILES.items():
        content = idx(array)
        written = folder / (file.replace("-idx", f"{mark}idx") + suffix)
        written.write_bytes(gzip.compress(content) if suffix else content)
    source = read(name, tmp_path)
    assert np.array_equal(source.train.images, PARTS["train"][0][:, None])
    assert np.array_equal(source.test.labels, PARTS["t10k"][1])


def test_a_folder_of_the_files_own_name(unpacked: Path) -> None:
    for name in FILES:
        (unpacked / name).rename(unpacked / name.replace("-idx", ".idx"))
        (unpacked / name).mkdir()
    assert len(read("mnist", unpacked).train) == 40


def test_few_bytes_of_gzip_do_not_become_many(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published / "train-images-idx3-ubyte.gz"
    long = idx(np.zeros((2**15, 28, 28), np.uint8))
    path.write_bytes(gzip.compress(long))
    monkeypatch.setattr(files, "MOST_BYTES", 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(GemkernError, match=f"{path} is damaged, expected at most 1048576 byte"):
            load("mnist", published)
        assert tracemalloc.get_traced_memory()[1] < len(long) / 4
    finally:
        tracemalloc.stop()


def test_a_pipe_is_no_file(unpacked: Path) -> None:
    path = unpacked / "train-images-idx3-ubyte"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(GemkernError, match=f"{path} is a pipe, a socket or a device: give a file"):
        load("mnist", unpacked)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match=r"cannot be read \(File name too long\)"):
        load("mnist", tmp_path / ("a" * 300))
