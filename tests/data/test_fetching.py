"""Data sets fetched from a server of this machine: whole, checked and once, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shlex
import struct
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import call

from gemkern.data import fetching, load
from gemkern.data.fetching import PUBLISHED, Published, fetch
from gemkern.errors import GemkernError

numbers = np.random.default_rng(0)
ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
CIFAR = ARCHIVES["cifar10"]


def archive(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """Return a .tar.gz of `files` by name, and of links to other names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as content:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            content.addfile(info, io.BytesIO(body))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            content.addfile(info)
    return buffer.getvalue()


def cifar(name: str) -> dict[str, bytes]:
    """Return the files of a data set with two images of each class, or more."""
    if name == "cifar10":
        folder, classes = "cifar-10-batches-bin", 10
        names = [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]
    else:
        folder, classes, names = "cifar-100-binary", 100, ["train", "test"]
    found = {}
    for one in names:
        labels = np.repeat(np.arange(classes, dtype=np.uint8), 2)[:, None]
        pixels = numbers.integers(0, 256, (len(labels), 3072), np.uint8)
        columns = [labels, pixels] if name == "cifar10" else [labels % 20, labels, pixels]
        found[f"{folder}/{one}.bin"] = np.concatenate(columns, axis=1).tobytes()
    return found


def idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(bytes((0, 0, 8, array.ndim)) + shape + array.tobytes())


def mnist() -> dict[str, bytes]:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 2)
    return {
        f"{part}-{kind}.gz": idx(array)
        for part in ("train", "t10k")
        for kind, array in (
            ("images-idx3-ubyte", numbers.integers(0, 256, (20, 28, 28), np.uint8)),
            ("labels-idx1-ubyte", labels),
        )
    }


# MNIST and Fashion-MNIST share the names of their files.
FILES = {
    "cifar10": {ARCHIVES["cifar10"]: archive(cifar("cifar10"))},
    "cifar100": {ARCHIVES["cifar100"]: archive(cifar("cifar100"))},
    "mnist": mnist(),
    "fashion-mnist": mnist(),
}


class Server:
    """Serves `files` at `address`, notes what is asked for, and fails as it is told."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        # How many downloads are cut off in the middle.
        self.hangs_up = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(self.path)
                if name not in server.files:
                    self.send_error(404)
                    return
                content = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if server.hangs_up > 0:
                    server.hangs_up -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

            def log_message(self, *words: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}/data/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is the place where the small data sets are published."""
    # Those of this machine are not reached by way of others.
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    server = Server()
    for name in FILES:
        publish(monkeypatch, server, name, FILES[name])
    yield server
    server.close()


def publish(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str, files: dict[str, bytes]
) -> None:
    digests = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(PUBLISHED, name, Published(server.address, digests))
    server.files |= files


def left_in(folder: Path) -> set[str]:
    """Return all files and folders, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_published_has_whole_checksums() -> None:
    digests = [digest for one in PUBLISHED.values() for digest in one.files.values()]
    assert len(digests) == len(set(digests)) == 10
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)
    assert all(one.address.endswith("/") for one in PUBLISHED.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_fetched_can_be_loaded(name: str, tmp_path: Path, server: Server) -> None:
    server.files |= FILES[name]
    out = tmp_path / "new" / "folder"
    paths = fetch(name, out)
    assert [path.name for path in paths] == list(FILES[name])
    assert {path.read_bytes() for path in paths} == set(FILES[name].values())
    assert server.asked == [f"/data/{file}" for file in FILES[name]]
    data = load(name, out)
    assert len(data.train) + len(data.validation) >= 20
    assert not [path for path in left_in(out) if Path(path).name.startswith((".", "tmp"))]


def test_files_are_as_readable_as_others(tmp_path: Path, server: Server) -> None:
    (tmp_path / "other").touch()
    for path in (*fetch("cifar10", tmp_path), tmp_path / "cifar-10-batches-bin/test_batch.bin"):
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_is_there_is_not_fetched_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("cifar10", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    # Not even pooch is needed.
    monkeypatch.setitem(sys.modules, "pooch", None)
    fetch("cifar10", tmp_path)
    assert server.asked == [f"/data/{CIFAR}"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_what_is_missing_is_fetched(tmp_path: Path, server: Server) -> None:
    server.files |= FILES["mnist"]
    fetch("mnist", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    fetch("mnist", tmp_path)
    assert server.asked[4:] == ["/data/t10k-labels-idx1-ubyte.gz"]


def test_what_was_unpacked_and_damaged_is_mended(tmp_path: Path, server: Server) -> None:
    fetch("cifar10", tmp_path)
    damaged = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    fetch("cifar10", tmp_path)
    assert damaged.read_bytes() == whole


def test_another_data_set_of_the_same_names_is_not_overwritten(
    tmp_path: Path, server: Server
) -> None:
    server.files |= FILES["mnist"]
    fetch("mnist", tmp_path)
    with pytest.raises(GemkernError, match=r"images-idx3-ubyte\.gz is another file than the one"):
        fetch("fashion-mnist", tmp_path)
    assert len(server.asked) == 4
    assert {path.read_bytes() for path in tmp_path.iterdir()} == set(FILES["mnist"].values())


def test_a_mirror_is_asked_in_place_of_the_publisher(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Published("http://127.0.0.1:9/", PUBLISHED["cifar10"].files)
    monkeypatch.setitem(PUBLISHED, "cifar10", nowhere)
    for number, end in enumerate(("", "/")):
        address = server.address.replace("/data/", f"/mirror{end}")
        fetch("cifar10", tmp_path / str(number), mirror=address)
    assert server.asked == [f"/mirror/{CIFAR}"] * 2


def test_a_download_that_was_cut_off_is_tried_again(tmp_path: Path, server: Server) -> None:
    server.hangs_up = 2
    fetch("cifar10", tmp_path)
    assert len(server.asked) == 3
    assert len(load("cifar10", tmp_path).test) == 20


def wrong_checksum(server: Server) -> None:
    server.files[CIFAR] = archive({"cifar-10-batches-bin/test_batch.bin": b"something else"})


def gone(server: Server) -> None:
    del server.files[CIFAR]


def cut_off(server: Server) -> None:
    server.hangs_up = 1 + fetching.RETRIES


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (wrong_checksum, r"\(MD5 hash of downloaded file .* does not match .* but got \w{32}\)"),
        (gone, r"\(404 Client Error: Not Found for url: http\S*\)"),
        (cut_off, r"\(IncompleteRead\(\d+ bytes read, \d+ more expected\)\)"),
        (Server.close, r"\(Connection refused\)"),
    ],
)
def test_what_does_not_come_whole_is_one_sentence_and_no_file(
    fail: Callable[[Server], None],
    reason: str,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fail(server)
    assert call(monkeypatch, "fetch", "cifar10", "--out", tmp_path) == 2
    shown = capfd.readouterr()
    assert re.fullmatch(
        f"gemkern: {CIFAR} could not be fetched from {server.address} into {tmp_path} {reason}: "
        "try again, or give another --mirror or --out\n",
        shown.err,
    )
    assert shown.out == ""
    assert left_in(tmp_path) == set()
    assert len(server.asked) in (0, 1 + fetching.RETRIES)


@pytest.mark.parametrize("name", ["../outside", "x/../../outside", "{place}/outside", "outside"])
def test_an_archive_that_leads_out_of_the_folder_is_refused(
    name: str,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = name.format(place=tmp_path)
    good = {"cifar-10-batches-bin/a.bin": b"good"}
    # A name that stays inside is that of a link, which does not.
    is_link = name == "outside"
    content = archive(good, {name: ".."}) if is_link else archive({**good, name: b"bad"})
    publish(monkeypatch, server, "cifar10", {CIFAR: content})
    out = tmp_path / "out"
    assert call(monkeypatch, "fetch", "cifar10", "--out", out) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert sentence.startswith(
        f"gemkern: {out / CIFAR} holds {name!r}, which is no file or leads out of {out}: "
    )
    assert left_in(tmp_path) == {"out", f"out/{CIFAR}"}


def test_an_archive_that_is_none_is_named(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server, "cifar10", {CIFAR: FILES["cifar10"][CIFAR][:-100]})
    with pytest.raises(GemkernError, match=f"{CIFAR} cannot be unpacked into"):
        fetch("cifar10", tmp_path)
    assert left_in(tmp_path) == {CIFAR}


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **named: Any) -> None:
        assert left_in(tmp_path), "the download has begun"
        raise KeyboardInterrupt

    monkeypatch.setattr("pooch.core.hash_matches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("cifar10", tmp_path)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("refused", ["mkdir", "mkdtemp", "mkstemp"])
def test_a_folder_that_cannot_be_written(
    refused: str,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(f"{'os' if refused == 'mkdir' else 'tempfile'}.{refused}", refuse)
    out = tmp_path / "out" if refused == "mkdir" else tmp_path
    assert call(monkeypatch, "fetch", "cifar10", "--out", out) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert str(out) in sentence
    assert "Read-only file system" in sentence
    monkeypatch.undo()
    assert left_in(tmp_path) == set()


def test_a_file_where_the_folder_should_be(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert call(monkeypatch, "fetch", "cifar10", "--out", out) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert f"into {out} (" in sentence
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar11"], "'cifar11' cannot be fetched: choose one of cifar10, cifar100, mnist"),
        (["cifar10", "--mirror", "somewhere"], "Unrecognized URL protocol"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    assert call(monkeypatch, "fetch", *arguments, "--out", tmp_path) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert message in sentence


def test_without_pooch_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert call(monkeypatch, "fetch", "cifar10", "--out", tmp_path) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert "pip install gemkern[fetch]" in sentence


def test_a_line_says_how_to_go_on_and_nothing_else_is_printed(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import pooch

    out = tmp_path / ("a [bold] :smile: folder of a long name" + "/and below" * 10)
    logger = pooch.get_logger()
    monkeypatch.setattr(logger.handlers[0], "stream", sys.stderr)
    server.hangs_up = 1
    assert call(monkeypatch, "fetch", "cifar10", "--out", out) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert shown.out == f"cifar10 is in {out}: --data cifar10 --data-dir {shlex.quote(str(out))}\n"
    logger.info("pooch can still be heard")
    assert capfd.readouterr().err == "pooch can still be heard\n"


def test_a_home_folder_is_found(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fetch("cifar10", "~/data") == [tmp_path / "data" / CIFAR]
    assert os.listdir(tmp_path) == ["data"]


def test_a_terminal_sees_a_bar_that_goes_again(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.hangs_up = 1
    fetch("cifar10", tmp_path)
    shown = capsys.readouterr().err
    assert CIFAR in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""
