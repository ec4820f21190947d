"""A folder of images, bit for bit, and every way in which it can be inconsistent."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkern.data import folder, load
from gemkern.data.folder import read
from gemkern.data.images import decode
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


@pytest.mark.filterwarnings("error")
def test_what_is_hidden_is_passed_over(images: Path) -> None:
    (images / "train" / ".cache").mkdir()
    (images / "train" / "__MACOSX" / "ant").mkdir(parents=True)
    (images / "train" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7")
    (images / "test" / "bee" / ".DS_Store").write_bytes(b"\0")
    assert read(images).train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_not_read_is_counted(images: Path) -> None:
    Image.new("RGB", (7, 5)).save(images / "train" / "ant" / "9.webp")
    Image.new("RGB", (7, 5)).save(images / "test" / "0.png")
    (images / "train" / "bee" / "more").mkdir()
    Image.new("RGB", (7, 5)).save(images / "train" / "bee" / "more" / "1.png")
    with pytest.warns(UserWarning, match="are not read") as caught:
        assert len(read(images).train) == 12
    (warning,) = caught
    assert str(warning.message) == (
        f"{images}: 2 files and 1 folders are not read, test/0.png the first of them: put the "
        "images of each class into train/CLASS and test/CLASS as png, jpg, jpeg or bmp"
    )


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
    with pytest.raises(
        GemkernError, match=f"{path} is not a PNG, JPEG or BMP image that can be read"
    ):
        load("folder", images)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PPM", "WEBP", "EPS", "TGA", "PCX"])
def test_other_formats_are_not_decoded_whatever_they_are_called(kind: str, images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    content = io.BytesIO()
    Image.new("RGB", (7, 5)).save(content, kind)
    path.write_bytes(content.getvalue())
    with pytest.raises(GemkernError, match=f"{path} is not a PNG, JPEG or BMP image that can be"):
        load("folder", images)


def header(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is, and has little else."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + rows + chunk(b"IEND", b"")


def test_what_a_header_says_is_checked_before_pixels_are_decoded(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = images / "train" / "ant" / "0.png"
    path.write_bytes(header(9000, 9000))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it decodes"))
    with pytest.raises(GemkernError, match=f"{path} has 9000 x 9000 pixels, more than 67108864"):
        load("folder", images)


@pytest.mark.parametrize("again", [1, 200])
def test_scans_of_a_jpeg_are_counted_before_pixels_are_decoded(again: int, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (7, 5)).save(content, "JPEG", progressive=True)
    start, scan, rest = content.getvalue().rpartition(b"\xff\xda")
    path = tmp_path / "progressive.jpg"
    path.write_bytes(start + again * (scan + rest[:-2]) + rest[-2:])
    if again == 1:
        assert decode(path).size == (7, 5)
        return
    with pytest.raises(GemkernError, match=f"{path} has 209 scans, more than 100"):
        decode(path)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (0, 7), (2**30, 1)])
def test_sizes_that_cannot_be(size: tuple[int, int], images: Path) -> None:
    (images / "train" / "ant" / "0.png").write_bytes(header(*size))
    with pytest.raises(GemkernError, match=r"ant/0.png"):
        load("folder", images)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_alpha_channel_goes(mode: str, images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    with Image.open(path) as image:
        opaque = image.convert(mode)
    opaque.save(path, **({"transparency": bytes([255] * 256)} if mode == "P" else {}))
    if mode == "LA":
        with pytest.raises(GemkernError, match=r"is 7 x 5 RGB but .* is 7 x 5 grey"):
            read(images)
        return
    expected = np.asarray(opaque.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(read(images).train.images[0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_a_transparent_pixel_is_refused(mode: str, images: Path) -> None:
    path = images / "test" / "bee" / "1.png"
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (7, 5), (5,) * (len(mode) - 1) + (255,))
        image.putpixel((3, 2), (5,) * (len(mode) - 1) + (254,))
        image.save(path)
    else:
        # A colour that is transparent wherever it stands.
        image = Image.new("RGB", (7, 5), (5, 5, 5))
        image.putpixel((3, 2), (9, 9, 9))
        image = image.quantize(2) if mode == "P" else image.convert(mode)
        image.save(path, transparency=image.getpixel((3, 2)))
    with pytest.raises(GemkernError, match=f"{path} is transparent in places, .* without an alpha"):
        load("folder", images)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(orientation: int, images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    with Image.open(path) as image:
        upright = image.copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(BACK[orientation]) if orientation > 1 else upright
    turned.save(path, exif=exif)
    assert np.array_equal(read(images).train.images[0], np.asarray(upright).transpose(2, 0, 1))


# What a camera that is held so makes of what is upright.
BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def test_images_of_all_sizes_become_squares(images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    mixed = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 4, 3), np.uint8))
    mixed.save(path)
    dataset = load("folder", images, resize=6)
    assert dataset.image_shape == (3, 6, 6)
    expected = np.asarray(mixed.resize((6, 6), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(read(images, resize=6).train.images[0], expected)


@pytest.mark.parametrize("resize", [0, -1, 2.5, 2**13 + 1, 10**400])
def test_a_side_that_cannot_be(resize: float, images: Path) -> None:
    with pytest.raises(GemkernError, match=r"resize is .*: give a"):
        load("folder", images, resize=resize)


def test_val_may_be_tested_with(images: Path) -> None:
    expected = read(images).test.images
    (images / "test").rename(images / "val")
    with pytest.raises(GemkernError, match="but val is there: to test with it, set test_folder=va"):
        load("folder", images)
    assert np.array_equal(read(images, test_folder="val").test.images, expected)
    assert len(load("folder", images, test_folder="val").test) == 6


@pytest.mark.parametrize("name", ["../test", "/etc", "", "..", "a/b"])
def test_a_test_folder_lies_beside_train(name: str, images: Path) -> None:
    with pytest.raises(GemkernError, match="give the name of a folder beside train"):
        load("folder", images, test_folder=name)


def test_a_test_folder_of_what_has_none(images: Path) -> None:
    with pytest.raises(GemkernError, match="leave test_folder=val out, which is for folder"):
        load("mnist", images, test_folder="val")


def test_a_pipe_is_no_image(images: Path) -> None:
    path = images / "train" / "ant" / "0.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(GemkernError, match=f"{path} is a pipe, a socket or a device: give a file"):
        load("folder", images)


def test_more_than_memory_holds(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(folder.np, "empty", full)
    with pytest.raises(GemkernError, match=r"do not fit into memory \(Unable to allocate 3 TiB\)"):
        load("folder", images)


def test_names_that_would_begin_a_line_of_their_own(images: Path) -> None:
    (images / "train" / "ant" / "a\nb").mkdir()
    with pytest.warns(UserWarning, match=r"train/ant/a\\nb the first of them"):
        read(images)
    (images / "train" / "a\nb").mkdir()
    with pytest.raises(GemkernError, match=r"class a\\nb of"):
        read(images)
