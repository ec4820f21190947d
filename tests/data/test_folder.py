"""A folder of images, bit for bit, and every way in which it can be inconsistent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkern.data import load
from gemkern.data.folder import read
from gemkern.errors import GemkernError

CLASSES = ("ant", "bee", "cow")
SHAPES = {"L": (5, 7), "RGB": (5, 7, 3)}


def pixels(half: str, label: int, index: int, mode: str) -> np.ndarray:
    numbers = np.random.default_rng([len(half), label, index])
    return numbers.integers(0, 256, SHAPES[mode], np.uint8)


def write(root: Path, mode: str, suffix: str = ".png") -> Path:
    for half, count in (("train", 4), ("test", 2)):
        for label, name in reversed(list(enumerate(CLASSES))):
            (root / half / name).mkdir(parents=True)
            for index in reversed(range(count)):
                image = Image.fromarray(pixels(half, label, index, mode))
                image.save(root / half / name / f"{index}{suffix}")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write(tmp_path, "RGB")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
@pytest.mark.parametrize("mode", SHAPES)
def test_reads_back_bit_for_bit(mode: str, suffix: str, tmp_path: Path) -> None:
    source = read(write(tmp_path, mode, suffix))
    assert source.classes == 3
    for split, half, count in ((source.train, "train", 4), (source.test, "test", 2)):
        expected = np.stack(
            [
                pixels(half, label, index, mode).reshape(5, 7, -1).transpose(2, 0, 1)
                for label in range(3)
                for index in range(count)
            ]
        )
        assert np.array_equal(split.images, expected)
        assert split.images.is_contiguous()
        assert split.labels.tolist() == [label for label in range(3) for _ in range(count)]


def test_jpegs_as_pillow_decodes_them(tmp_path: Path) -> None:
    write(tmp_path, "RGB", ".jpeg")
    with Image.open(tmp_path / "test" / "bee" / "1.jpeg") as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(read(tmp_path).test.images[3], expected)


def test_a_palette_is_read_as_rgb(images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    with Image.open(path) as image:
        paletted = image.convert("P")
    paletted.save(path)
    expected = np.asarray(paletted.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(read(images).train.images[0], expected)


def test_other_files_and_hidden_folders_are_left_alone(images: Path) -> None:
    (images / "train" / "notes.txt").write_text("ants are hard")
    (images / "train" / ".cache").mkdir()
    (images / "train" / "ant" / "readme.md").write_text("ants")
    assert read(images).train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_load(images: Path) -> None:
    dataset = load("folder", images, validation=0.25)
    assert dataset.classes == 3
    assert dataset.image_shape == (3, 5, 7)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (9, 3, 6)
    assert (dataset.augment.crop_padding, dataset.augment.flip) == (4, True)


@pytest.mark.parametrize("half", ["train", "test"])
def test_missing_half(half: str, images: Path) -> None:
    shutil.rmtree(images / half)
    with pytest.raises(GemkernError, match=f"{images / half} is not a folder: put the images of"):
        load("folder", images)


def test_no_classes(images: Path) -> None:
    for name in CLASSES:
        shutil.rmtree(images / "train" / name)
    with pytest.raises(GemkernError, match=f"{images / 'train'} holds no class folders"):
        load("folder", images)


@pytest.mark.parametrize("half", ["train", "test"])
def test_a_class_in_one_half_alone(half: str, images: Path) -> None:
    shutil.rmtree(images / half / "bee")
    with pytest.raises(GemkernError, match=f"class bee of {images} is in only one of train and"):
        load("folder", images)


@pytest.mark.parametrize("half", ["train", "test"])
def test_a_class_without_images(half: str, images: Path) -> None:
    for path in (images / half / "cow").iterdir():
        path.unlink()
    with pytest.raises(GemkernError, match=f"{images / half / 'cow'} holds no images"):
        load("folder", images)


@pytest.mark.parametrize("half", ["train", "test"])
@pytest.mark.parametrize(
    ("odd", "is_what"),
    [
        (Image.new("RGB", (7, 6)), "7 x 6 RGB"),
        (Image.new("RGB", (5, 7)), "5 x 7 RGB"),
        (Image.new("L", (7, 5)), "7 x 5 grey"),
    ],
)
def test_the_first_odd_image_is_named(
    half: str, odd: Image.Image, is_what: str, images: Path
) -> None:
    path = images / half / "bee" / "1.png"
    odd.save(path)
    odd.save(images / half / "cow" / "0.png")
    first = images / "train" / "ant" / "0.png"
    with pytest.raises(GemkernError, match=f"{path} is {is_what} but {first} is 7 x 5 RGB: make"):
        load("folder", images)


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_a_mode_of_other_than_eight_bits(mode: str, images: Path) -> None:
    path = images / "train" / "cow" / "2.png"
    Image.new(mode, (7, 5)).save(path)
    with pytest.raises(GemkernError, match=f"{path} has the mode {mode}: save it as 8-bit"):
        load("folder", images)


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_a_file_that_is_no_image(keep: int, images: Path) -> None:
    path = images / "test" / "cow" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GemkernError, match=f"{path} is not an image that can be read"):
        load("folder", images)
