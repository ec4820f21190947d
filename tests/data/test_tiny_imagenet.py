"""TinyImageNet as it is published: what is read, in which order, and what is said of damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkern.data import load
from gemkern.data.tiny_imagenet import read
from gemkern.errors import GemkernError

# As published: in no order.
WNIDS = ("n02124075", "n01443537", "n04067472")
IN_ORDER = sorted(WNIDS)
TRAIN, VALIDATION = 11, 5


def photograph(*numbers: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    noise = np.random.default_rng(numbers).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text("n00001740\tentity\nn02124075\tEgyptian cat\n")
    photograph(9).save(root / "test" / "images" / "test_0.JPEG")
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid
        (folder / "images").mkdir(parents=True)
        (folder / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        for number in range(TRAIN):
            image = photograph(0, label, number)
            image.save(folder / "images" / f"{wnid}_{number}.JPEG")
    lines = []
    for number in range(VALIDATION):
        photograph(1, number).save(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_reads_back_bit_for_bit(inside: bool, root: Path) -> None:
    source = read(root if inside else root.parent)
    assert source.classes == 3
    train = [
        (label, path)
        for label, wnid in enumerate(IN_ORDER)
        for path in sorted((root / "train" / wnid / "images").iterdir())
    ]
    test = [
        (IN_ORDER.index(WNIDS[number % 3]), root / "val" / "images" / f"val_{number}.JPEG")
        for number in range(VALIDATION)
    ]
    for split, expected in ((source.train, train), (source.test, test)):
        assert split.labels.tolist() == [label for label, _ in expected]
        assert np.array_equal(split.images, np.stack([decoded(path) for _, path in expected]))
        assert split.images.shape == (len(expected), 3, 64, 64)
        assert split.images.is_contiguous()


def test_a_grey_image_is_read_as_rgb(root: Path) -> None:
    path = root / "train" / IN_ORDER[1] / "images" / f"{IN_ORDER[1]}_0.JPEG"
    photograph(7).convert("L").save(path)
    image = read(root).train.images[TRAIN].numpy()
    assert np.array_equal(image, decoded(path))
    assert np.array_equal(image[0], image[2])
    assert image.std() > 0


def test_load(root: Path) -> None:
    dataset = load("tiny-imagenet", root)
    assert dataset.classes == 3
    assert dataset.image_shape == (3, 64, 64)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (30, 3, VALIDATION)
    assert (dataset.augment.crop_padding, dataset.augment.flip) == (4, True)


def spoil(path: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: change(root / path)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


FIRST = f"train/{IN_ORDER[0]}/images/{IN_ORDER[0]}_0.JPEG"
NOTES = "val/val_annotations.txt"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no wnids": (spoil("wnids.txt", Path.unlink), "wnids.txt is missing: unpack tiny-imagenet-200"),
    "a name that no file has": (
        spoil(NOTES, lambda path: path.write_text(f"a\0b\t{WNIDS[0]}\n")),
        "b is the name of no file",
    ),
    "empty wnids": (
        spoil("wnids.txt", lambda path: path.write_text("\n")),
        "wnids.txt is damaged, expected a WNID a line but found none: unpack",
    ),
    "a wnid twice": (
        spoil("wnids.txt", lambda path: path.write_text(f"{WNIDS[0]}\n{WNIDS[0]}\n")),
        "wnids.txt is damaged, expected a WNID a line but found one of them twice",
    ),
    "no class": (
        spoil(f"train/{IN_ORDER[2]}", shutil.rmtree),
        f"train/{IN_ORDER[2]}/images is not a folder: unpack",
    ),
    "no images": (
        spoil(f"train/{IN_ORDER[0]}/images", empty),
        f"train/{IN_ORDER[0]}/images holds no JPEG images: unpack",
    ),
    "no annotations": (spoil(NOTES, Path.unlink), "val_annotations.txt is missing: unpack"),
    "empty annotations": (
        spoil(NOTES, lambda path: path.write_text("")),
        "val_annotations.txt is damaged, expected a file and a WNID a line but found none",
    ),
    "a class that is none": (
        spoil(NOTES, lambda path: path.write_text(f"val_0.JPEG\t{WNIDS[0]}\nval_1.JPEG\tn1\n")),
        r"a file and a WNID of wnids.txt, tabs between, in line 2 but found 'val_1.JPEG\\tn1'",
    ),
    "no class at all": (
        spoil(NOTES, lambda path: path.write_text("val_0.JPEG\n")),
        "tabs between, in line 1 but found 'val_0.JPEG'",
    ),
    "a file elsewhere": (
        spoil(NOTES, lambda path: path.write_text(f"../../{FIRST}\t{WNIDS[0]}\n")),
        "tabs between, in line 1 but found",
    ),
    "a missing image": (
        spoil("val/images/val_3.JPEG", Path.unlink),
        "val/images/val_3.JPEG is not a JPEG image that can be read .*No such file",
    ),
    "another format": (
        spoil(FIRST, lambda path: photograph(3).save(path, "PNG")),
        f"{FIRST} is not a JPEG image that can be read",
    ),
    "a file cut off": (
        spoil(FIRST, lambda path: path.write_bytes(path.read_bytes()[:200])),
        f"{FIRST} is not a JPEG image that can be read",
    ),
    "another size": (
        spoil(FIRST, lambda path: photograph(3, size=(64, 32)).save(path)),
        f"{FIRST} is damaged, expected 64 x 64 pixels but found 64 x 32: unpack",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_damaged_is_named(case: str, root: Path) -> None:
    change, sentence = SPOILT[case]
    change(root)
    with pytest.raises(GemkernError, match=sentence) as caught:
        load("tiny-imagenet", root)
    assert str(root) in str(caught.value)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match=f"{tmp_path / 'wnids.txt'} is missing: unpack"):
        load("tiny-imagenet", tmp_path)


def test_what_a_mac_left_is_passed_over(root: Path) -> None:
    (root / "train" / WNIDS[0] / "images" / f"._{WNIDS[0]}_0.JPEG").write_bytes(b"\0\5\x16\7")
    assert len(read(root).train) == 3 * TRAIN
