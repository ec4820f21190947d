"""Caltech-101: the same division for everybody, one size, and what is said of damage."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkern.data import load
from gemkern.data.caltech101 import read
from gemkern.errors import GemkernError

# Classes and how many images each has: all for testing are taken, or 50 of them.
COUNTS = {"Faces": 34, "accordion": 85, "wrench": 31}
SIZES = ((30, 20), (20, 30), (25, 25))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small Caltech-101 of images whose brightness is their number."""
    root = tmp_path_factory.mktemp("caltech") / "101_ObjectCategories"
    for name, count in {**COUNTS, "BACKGROUND_Google": 40}.items():
        (root / name).mkdir(parents=True)
        for number in range(1, count + 1):
            size = SIZES[number % 3]
            Image.new("RGB", size, (2 * number,) * 3).save(root / name / file(number))
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """Return a copy that may be spoilt."""
    return Path(shutil.copytree(published, tmp_path / published.name))


def file(number: int) -> str:
    return f"image_{number:04d}.jpg"


def numbers_of(images: np.ndarray) -> list[int]:
    return np.rint(images.reshape(len(images), -1).mean(1) / 2).astype(int).tolist()


def divided(name: str) -> tuple[list[int], list[int]]:
    """Return the numbers of the images for training and for testing, by the documented rule."""

    def rank(number: int) -> bytes:
        return hashlib.sha256(f"{name}/{file(number)}".encode()).digest()

    numbers = sorted(range(1, COUNTS[name] + 1), key=rank)
    return numbers[:30], numbers[30:80]


@pytest.mark.parametrize("inside", [True, False])
def test_the_division_is_the_documented_one(inside: bool, published: Path) -> None:
    source = read(published if inside else published.parent, resize=8)
    assert source.classes == 3
    for split, part, counts in (
        (source.train, 0, (30, 30, 30)),
        (source.test, 1, (4, 50, 1)),
    ):
        labels = np.repeat(range(3), counts)
        assert split.labels.tolist() == labels.tolist()
        found = numbers_of(split.images.numpy())
        expected = [number for name in sorted(COUNTS) for number in divided(name)[part]]
        assert found == expected


def test_the_division_is_that_of_a_shell(published: Path) -> None:
    # printf Faces/image_0031.jpg | sha256sum, and so on, sorted.
    test = numbers_of(read(published, resize=8).test.images.numpy())
    assert test[:4] == [31, 12, 32, 10]
    assert test[-1] == 27


def test_no_image_is_in_two_halves(published: Path) -> None:
    source = read(published, resize=8)
    for label in range(3):
        train, test = (
            set(numbers_of(half.images[half.labels == label].numpy()))
            for half in (source.train, source.test)
        )
        assert not train & test


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (224, 224)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_become_squares_as_pillow_resizes_them(
    mode: str, size: tuple[int, int], root: Path
) -> None:
    number = divided("wrench")[1][0]
    path = root / "wrench" / file(number)
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    found = read(root, resize=48).test.images[-1].numpy()
    with Image.open(path) as image:
        resized = image.resize((48, 48), Image.Resampling.BILINEAR).convert("RGB")
    assert np.array_equal(found, np.asarray(resized).transpose(2, 0, 1))


def test_load(published: Path) -> None:
    dataset = load("caltech101", published, resize=12)
    assert dataset.image_shape == (3, 12, 12)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (81, 9, 55)
    assert (dataset.augment.crop_padding, dataset.augment.flip) == (0, False)


def test_images_are_224_pixels_a_side_if_nothing_is_said(published: Path) -> None:
    assert load("caltech101", published).image_shape == (3, 224, 224)


def test_too_few_images(root: Path) -> None:
    (root / "wrench" / file(1)).unlink()
    with pytest.raises(GemkernError, match=r"wrench holds 30 JPEG images, and 30 are for training"):
        load("caltech101", root)


def test_no_classes(tmp_path: Path) -> None:
    (tmp_path / "BACKGROUND_Google").mkdir()
    with pytest.raises(GemkernError, match=f"{tmp_path} holds no class folders: unpack 101_Obj"):
        load("caltech101", tmp_path)


@pytest.mark.parametrize("content", ["cut off", "png", "folder"])
def test_a_file_that_is_no_jpeg(content: str, root: Path) -> None:
    path = root / "Faces" / file(5)
    if content == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    elif content == "png":
        Image.new("RGB", (9, 9)).save(path, "PNG")
    else:
        path.unlink()
        path.mkdir()
        with pytest.raises(GemkernError, match=f"{path} is a folder: give a file on a disk"):
            load("caltech101", root, resize=8)
        return
    with pytest.raises(GemkernError, match=f"{path} is not a JPEG image that can be read"):
        load("caltech101", root, resize=8)


@pytest.mark.parametrize(
    ("resize", "sentence"), [(0, "resize is 0: give at least 1"), (7.5, "resize is 7.5: give a")]
)
def test_a_size_that_is_none(resize: int, sentence: str, published: Path) -> None:
    with pytest.raises(GemkernError, match=sentence):
        load("caltech101", published, resize=resize)


def test_what_has_a_size_is_not_resized() -> None:
    with pytest.raises(
        GemkernError,
        match="digits is read as it is published: leave resize=32 out",
    ):
        load("digits", resize=32)


def test_what_a_mac_left_is_passed_over(root: Path) -> None:
    (root / "__MACOSX").mkdir()
    for number in range(20):
        (root / "Faces" / f"._{file(number)}").write_bytes(b"\0\5\x16\7")
    assert read(root, resize=8).train.labels.tolist() == [0] * 30 + [1] * 30 + [2] * 30
