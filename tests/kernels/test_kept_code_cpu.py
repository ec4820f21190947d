"""No state of the disk keeps a compiled function from running; what is damaged heals."""

from __future__ import annotations

import importlib.util
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from gemkern.kernels.cpu.machine import compiling, kept_code
from numba.core import config, event

SOURCE = """
from gemkern.kernels.cpu.machine.compiling import njit

@njit(cache=True)
def one() -> int:
    return 1

@njit(cache=True)
def doubled(x):
    return 2 * x + one() - 1
"""
NOWHERE = "/dev/null/nothing"
Load = Callable[[], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Load:
    """Import a module of two tiny kernels as a new process would, and call one of them."""
    source = tmp_path / "site" / "tiny.py"
    source.parent.mkdir()
    source.write_text(SOURCE)
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_code, "_said", set())
    caplog.set_level(logging.WARNING)

    def imported() -> ModuleType:
        spec = importlib.util.spec_from_file_location("tiny", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kept_code._said.clear()
        assert module.doubled(4) == 8
        return module

    return imported


def compiled(module: ModuleType) -> int:
    """Return how many functions were compiled, not loaded."""
    return sum(sum(one.stats.cache_misses.values()) for one in (module.one, module.doubled))


def kept(folder: Path, suffix: str = ".nb?") -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def no_place(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every place from Numba: beside a module, in a home folder, where a variable says."""
    (source / "__pycache__").write_text("not a folder")
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("HOME", NOWHERE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_what_was_compiled_is_loaded(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert compiled(load()) > 0
    assert kept(tmp_path / "cache")
    assert compiled(load()) == 0
    assert not caplog.messages


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


def greedy(path: Path) -> None:
    # Seven bytes that make an unpickler ask for gigabytes.
    path.write_bytes(b"N" + b"r" + (2**29).to_bytes(4, "little") + b".")


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("harm", [cut, empty, garbage, flip, greedy])
def test_what_is_damaged_is_deleted_and_compiled_again(
    load: Load,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    suffix: str,
) -> None:
    load()
    for path in kept(tmp_path / "cache", suffix):
        harm(path)
    assert compiled(load()) > 0
    (sentence,) = caplog.messages
    assert "did not load" in sentence
    assert str(tmp_path / "cache") in sentence
    caplog.clear()
    assert compiled(load()) == 0, "it has not healed"
    assert not caplog.messages


def test_a_folder_where_an_index_should_be(load: Load, tmp_path: Path) -> None:
    load()
    for path in kept(tmp_path / "cache", ".nbi"):
        path.unlink()
        path.mkdir()
    load()


def test_no_place_but_that_of_temporary_files(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_place(tmp_path / "site", monkeypatch)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert compiled(load()) > 0
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept(folder)
    (sentence,) = caplog.messages
    assert str(folder) in sentence
    assert "NUMBA_CACHE_DIR" in sentence
    assert compiled(load()) == 0


def test_a_temporary_folder_that_others_can_write_is_not_used(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_place(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = tmp_path / f"gemkern-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    load()
    assert not kept(planted)
    assert any("cannot be kept" in sentence for sentence in caplog.messages)


def test_no_place_at_all(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_place(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", NOWHERE)
    assert compiled(load()) > 0
    assert compiled(load()) > 0
    assert {"compiled at each start" in sentence for sentence in caplog.messages} == {True}


def test_a_user_whom_nobody_knows(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_place(tmp_path / "site", monkeypatch)
    # What `expanduser` returns where neither HOME nor the user's number leads anywhere.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load()
    assert not (tmp_path / "~").exists()


def test_a_full_disk(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Files can be made, and not one byte be written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    (sentence,) = caplog.messages
    assert "free some space" in sentence
    caplog.clear()
    load()
    assert compiled(load()) == 0
    assert not caplog.messages


def test_code_is_on_the_disk_before_what_leads_to_it(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    save = kept_code._WholeFiles._open_for_write

    def noted(self: kept_code._WholeFiles, path: str) -> object:
        written.append(Path(path).suffix)
        return save(self, path)

    monkeypatch.setattr(kept_code._WholeFiles, "_open_for_write", noted)
    load()
    assert written == [".nbc", ".nbi"] * (len(written) // 2)


def test_nothing_is_kept_where_nothing_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(SOURCE)
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(tmp_path)}
    script = "import tiny; assert tiny.doubled(4) == 8"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_every_kernel_is_kept_so() -> None:
    folder = Path(compiling.__file__).parents[1]
    own = [path for path in folder.rglob("*.py") if path.name != "compiling.py"]
    assert len(own) > 20
    for path in own:
        assert "njit" not in _imports_of_numba(path.read_text()), path.name


def _imports_of_numba(source: str) -> str:
    return "".join(line for line in source.splitlines() if line.startswith("from numba"))


def test_a_word_now_and_then_says_how_many(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    now = iter((0.0, 10.0, 31.0, 40.0))
    monkeypatch.setattr(compiling, "monotonic", lambda: next(now))
    announcer, ours = compiling.Announcer(), _compilation("gemkern.kernels.cpu.pooling")
    for one in (ours, _compilation("mine"), ours, ours):
        announcer.on_start(one)
        announcer.on_end(one)
    assert caplog.messages == [compiling.NOTICE, "gemkern: 2 CPU kernels compiled in 31 s"]


def test_whoever_waits_sees_how_many_are_done() -> None:
    seen: list[int] = []
    ours, foreign = _compilation("gemkern.kernels.cpu.pooling"), _compilation("mine")
    with compiling.counting(seen.append):
        for one in (ours, foreign, ours):
            _tell(one)
    _tell(ours)
    assert seen == [1, 2]


def _tell(compilation: event.Event) -> None:
    with event.trigger_event("numba:compile", data=compilation.data):
        pass


def _compilation(module: str) -> event.Event:
    def function() -> None:
        pass

    function.__module__ = module
    dispatcher = type("Dispatcher", (), {"py_func": staticmethod(function)})
    return event.Event("numba:compile", event.EventStatus.START, data={"dispatcher": dispatcher})
