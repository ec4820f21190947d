"""A file is whole or absent."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from gemkern.errors import GemkernError
from gemkern.files import check_place, check_regular, write_atomically, write_json


def fail_with(error: BaseException, path: Path) -> None:
    path.write_text("half")
    raise error


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "a.txt", lambda path: path.write_text("whole"))
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_one_sentence(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(GemkernError, match=r"a\.txt: No space left on device; free some space"):
        write_atomically(target, lambda path: fail_with(full, path))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", lambda path: fail_with(KeyboardInterrupt(), path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(GemkernError, match="could not write"):
        write_atomically(tmp_path / "out" / "a.txt", lambda path: path.write_text("x"))


def test_the_file_gets_the_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("x"))
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".a.json.k3_x9abc").write_bytes(b"half of a fi")
    (tmp_path / ".a.json.swp").write_text("an editor's")
    (tmp_path / ".b.json.k3_x9abc").write_text("another file's")
    living = tmp_path / ".a.json.written0"
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_json(tmp_path / "a.json", {})
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a.json.swp",
        ".a.json.written0",
        ".b.json.k3_x9abc",
        "a.json",
    ]


def test_a_name_that_no_file_has() -> None:
    for name in ("a\0b", "\ud800"):
        for check in (check_regular, check_place):
            with pytest.raises(GemkernError, match="is the name of no file"):
                check(name)
