"""Fuzzers of the readers of images, and of folders of them."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz.child import reading
from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.laying import STRANGE, lay
from benchmarks.fuzz.mutations import TEXTS, Edit, edited, edits
from gemkern.data import load
from gemkern.data.images import decode, pixels, resized

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Modes of each format, and options of Pillow's writer.
WRITERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "grey PNG": ("PNG", "L", {}),
    "grey and alpha PNG": ("PNG", "LA", {}),
    "RGB PNG": ("PNG", "RGB", {}),
    "RGBA PNG": ("PNG", "RGBA", {}),
    "palette PNG": ("PNG", "P", {}),
    "bits PNG": ("PNG", "1", {}),
    "deep PNG": ("PNG", "I;16", {}),
    "grey JPEG": ("JPEG", "L", {}),
    "RGB JPEG": ("JPEG", "RGB", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
    "CMYK JPEG": ("JPEG", "CMYK", {}),
    "turned JPEG": (
        "JPEG",
        "RGB",
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"},
    ),
    "RGB BMP": ("BMP", "RGB", {}),
    "palette BMP": ("BMP", "P", {}),
    "GIF": ("GIF", "P", {}),
    "TIFF": ("TIFF", "RGB", {}),
}
CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL")


class Piece(NamedTuple):
    """What is done to a chunk of a PNG, whose checksum is right again, or a segment of a JPEG."""

    kind: str
    place: int
    name: bytes
    edits: list[Edit]


class Picture(NamedTuple):
    """An image file, its pieces and its bytes spoiled, read and resized."""

    whole: str
    pieces: list[Piece]
    edits: list[Edit]
    side: int | None


def image_inputs() -> st.SearchStrategy[Picture]:
    """Return images of all formats, in pieces and in bytes."""
    piece = st.builds(
        Piece,
        st.sampled_from(("change", "change", "repeat", "drop", "insert")),
        st.integers(0, 20),
        st.sampled_from(CHUNKS),
        edits(2),
    )
    return st.builds(
        Picture,
        st.sampled_from(tuple(WRITERS)),
        st.lists(piece, max_size=3),
        edits(2),
        st.sampled_from((None, 1, 7)),
    )


def try_image(value: Picture, folder: Path) -> None:
    """Write the image, decode it, and look at its pixels."""
    content = edited(_with_pieces(_image(value.whole), value.pieces), value.edits)
    lay(folder, {"image.png": content})
    with reading():
        pixels(resized(decode(folder / "image.png"), value.side))


@functools.cache
def _image(name: str, size: tuple[int, int] = (9, 6)) -> bytes:
    form, mode, options = WRITERS[name]
    numbers = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    numbers[..., 3] = 255
    image = Image.fromarray(numbers, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(numbers[..., 0].astype(np.uint16) * 257)
    elif mode != "RGBA":
        image = image.convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _with_pieces(content: bytes, done: list[Piece]) -> bytes:
    """Return a PNG or a JPEG after changes to its pieces; other formats have none."""
    if not done:
        return content
    if content.startswith(SIGNATURE):
        chunks = [
            (name, edited(body, piece_edits))
            for name, body, piece_edits in _changed(_chunks(content), done)
        ]
        return SIGNATURE + b"".join(map(_chunk, chunks))
    if content.startswith(b"\xff\xd8"):
        segments, rest = _segments(content)
        changed = [
            name + struct.pack(">H", min(len(body) + 2, 2**16 - 1)) + body
            for name, body in (
                (name[:2], edited(body, own)) for name, body, own in _changed(segments, done)
            )
        ]
        return b"\xff\xd8" + b"".join(changed) + rest
    return content


def _changed(
    pieces: list[tuple[bytes, bytes]], done: list[Piece]
) -> list[tuple[bytes, bytes, list[Edit]]]:
    found: list[tuple[bytes, bytes, list[Edit]]] = [(name, body, []) for name, body in pieces]
    for one in done:
        place = one.place % (len(found) + 1)
        if one.kind == "insert":
            found.insert(place, (one.name, b"\0" * 13, one.edits))
        elif place < len(found):
            name, body, own = found[place]
            if one.kind == "drop":
                del found[place]
            elif one.kind == "repeat":
                found[place:place] = [found[place]] * (3 * one.place)
            else:
                found[place] = (name, body, [*own, *one.edits])
    return found


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], len(SIGNATURE)
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _chunk(one: tuple[bytes, bytes]) -> bytes:
    name, body = one
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _segments(content: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the segments before the first scan, and all from there on."""
    found, place = [], 2
    while content[place : place + 2] != b"\xff\xda":
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        found.append((content[place : place + 2], content[place + 4 : place + 2 + length]))
        place += 2 + length
    return found, content[place:]


NAMES = ("ant", "bee", ".hidden", "__MACOSX", "a.png", *(text for text in TEXTS if "/" not in text))
CONTENTS = ("RGB PNG", "RGB JPEG", "grey PNG", "RGBA PNG", "bits PNG", "nothing", *STRANGE)


class Extra(NamedTuple):
    """A file that is there too, or in the place of another."""

    half: str
    folder: str
    name: str
    content: str


class Layout(NamedTuple):
    """A folder of images: what is there too, what is missing, and how it is asked for."""

    extras: list[Extra]
    missing: list[int]
    resize: int | None
    other: str | None
    lines: list[str]


def layouts(halves: tuple[str, ...], files: tuple[str, ...]) -> st.SearchStrategy[Layout]:
    """Return folders of two halves, in which files lie beside others, or are not there."""
    extra = st.builds(
        Extra,
        st.sampled_from(halves),
        st.sampled_from(NAMES),
        st.sampled_from((*files, *NAMES)),
        st.sampled_from(CONTENTS),
    )
    return st.builds(
        Layout,
        st.lists(extra, max_size=2),
        st.lists(st.integers(0, 50), max_size=1),
        st.sampled_from((None, 1, 8, 8, 0, -1, 2**13 + 1, 2**70)),
        st.sampled_from((None, None, None, "test", "val", "..", "", "a/b", "a\nb", "\0")),
        st.lists(st.sampled_from(LINES), max_size=3),
    )


def folder_inputs() -> st.SearchStrategy[Layout]:
    """Return folders for `--data folder`."""
    return layouts(("train", "test", "val", "."), ("0.png", "3.png", "4.jpg", "5.BMP", "x.txt"))


def try_folder(value: Layout, folder: Path) -> None:
    """Lay the images, and load them."""
    whole = {
        f"{half}/{name}/{number}.png": _content("RGB PNG")
        for half, count in (("train", 2), ("test", 1))
        for name in ("ant", "bee")
        for number in range(count)
    }
    lay(folder, _laid(whole, value))
    with reading():
        load("folder", folder, resize=value.resize, test_folder=value.other)


def caltech_inputs() -> st.SearchStrategy[Layout]:
    """Return folders for `--data caltech101`."""
    return layouts((".", "101_ObjectCategories"), ("image_0.jpg", "image_40.jpg", "x.png"))


def try_caltech(value: Layout, folder: Path) -> None:
    """Lay 31 photographs of two classes, and load them."""
    whole = {
        f"101_ObjectCategories/{name}/image_{number}.jpg": _content("RGB JPEG")
        for name in ("ant", "bee")
        for number in range(31)
    }
    lay(folder, _laid(whole, value))
    with reading():
        load("caltech101", folder, resize=8 if value.resize is None else value.resize)


# Of the two texts of TinyImageNet.
LINES = (
    "n01", "n02", "n03", "0.JPEG\tn01\t0\t0\t62\t62", "1.JPEG\tn02", "2.JPEG\tn09", "", "\t", "..",
    "..\tn01", "../../x\tn01", "a\0b\tn01", "a\0b", f"{300 * 'x'}\tn01", 300 * "x", "\udcff\tn01",
    "\x1b[2J\tn01", "0.JPEG n01", "\N{LINE SEPARATOR}\tn02", ".\tn01", "0.JPEG\tn01\nn01",
)  # fmt: skip


def tiny_inputs() -> st.SearchStrategy[tuple[Layout, list[Edit], int]]:
    """Return folders for `--data tiny-imagenet`, whose texts are spoiled too."""
    halves = ("train", "val", "val/images", "train/n01")
    return st.tuples(
        layouts(halves, ("0.JPEG", "wnids.txt", "images")), edits(1), st.integers(0, 1)
    )


def try_tiny(value: tuple[Layout, list[Edit], int], folder: Path) -> None:
    """Lay two classes and their texts, and load them."""
    layout, done, spoiled = value
    texts = ["n02\nn01\n", "0.JPEG\tn01\t0\t0\t62\t62\n1.JPEG\tn02\t0\t0\t62\t62\n"]
    added = "\n".join(layout.lines).encode(errors="surrogateescape")
    contents = [text.encode() for text in texts]
    contents[spoiled] = edited(contents[spoiled] + added, done)
    images = {
        **{f"train/{name}/images/{i}.JPEG": "" for name in ("n01", "n02") for i in (0, 1)},
        **{f"val/images/{i}.JPEG": "" for i in (0, 1)},
    }
    whole = {
        "wnids.txt": contents[0],
        "val/val_annotations.txt": contents[1],
        **{name: _image("RGB JPEG", (64, 64)) for name in images},
    }
    lay(folder, _laid(whole, layout))
    with reading():
        load("tiny-imagenet", folder)


def _laid(whole: dict[str, bytes], value: Layout) -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = dict(whole)
    for extra in value.extras:
        files[f"{extra.half}/{extra.folder}/{extra.name}"] = _content(extra.content)
    for place in value.missing:
        files.pop(list(whole)[place % len(whole)], None)
    return files


def _content(name: str) -> Any:
    if name in STRANGE:
        return name
    return b"" if name == "nothing" else _image(name)


PLAIN = Layout([], [], None, None, [])
FUZZERS = (
    Fuzzer("image", try_image, image_inputs, Picture("RGB PNG", [], [], None)),
    Fuzzer("folder", try_folder, folder_inputs, PLAIN),
    Fuzzer("caltech101", try_caltech, caltech_inputs, PLAIN),
    Fuzzer("tiny-imagenet", try_tiny, tiny_inputs, (PLAIN, [], 0)),
)
