"""A process in which inputs are tried, so that a crash, a hang or a hunger costs it alone.

What may come of an input is judged here: it is accepted, or refused by one `GemkernError` whose
message is one sentence that can be printed. Everything else is a failure: another exception, a
message or a warning that a terminal would obey, a file that is written, memory beyond all measure,
more time than there is, death by a signal.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gemkern.errors import GemkernError

# Of a message; the longest of ours names all settings.
LONGEST = 4000
# Memory beyond what a process has that has loaded everything, in bytes.
MOST_MEMORY = 2**32
# Seconds until a process has loaded everything, kernels compiled.
PATIENCE = 600.0
ROOT = Path(__file__).resolve().parent.parent.parent

Attempt = Callable[[Any, Path], None]


class Outcome(NamedTuple):
    """What came of an input; of a failure, what it is and where it comes from."""

    verdict: Literal["accepted", "refused", "failed"]
    what: str = ""
    where: str = ""


class Wrong(Exception):
    """Something came of an input that must not."""


class Child:
    """A process that is started again whenever it dies.

    Args:
        seconds: for one input.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._spawn = multiprocessing.get_context("spawn")
        self._process: Any = None
        self.starts = 0

    def __enter__(self) -> Child:
        self._folder = tempfile.TemporaryDirectory()
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def attempt(self, attempt: Attempt, value: Any, seconds: float | None = None) -> Outcome:
        """Return what comes of `attempt(value, folder)` in the process."""
        if self._process is None:
            self._start()
        self._connection.send((attempt, value))
        if not self._connection.poll(seconds or self._seconds):
            self._end()
            return Outcome("failed", f"more than {seconds or self._seconds:g} seconds", "a hang")
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._process = None
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome("failed", f"the process died: {name}", "a crash")

    def _start(self) -> None:
        self._connection, theirs = self._spawn.Pipe()
        arguments = (theirs, self._folder.name)
        self._process = self._spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.starts += 1
        if not self._connection.poll(PATIENCE) or self._connection.recv() != "ready":
            raise RuntimeError("no process to try inputs in")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


class _Watch:
    """What is opened for writing, or started, while something is read."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.is_on = False
        self.seen: list[str] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (
                flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if mode is None
                else (set(mode) & set("wax+"))
            )
            if writes:
                self._note(event, path)
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.truncate"):
            self._note(event, arguments[0])
        elif event in ("os.system", "subprocess.Popen", "socket.connect", "pickle.find_class"):
            self.seen.append(f"{event} {arguments[:2]!r}")

    def _note(self, event: str, path: Any) -> None:
        if self.inside is None or not Path(os.fsdecode(path)).is_relative_to(self.inside):
            self.seen.append(f"{event} {path!r}")


_watch = _Watch()


@contextmanager
def reading(inside: Path | None = None) -> Iterator[None]:
    """Let nothing be written meanwhile, but `inside` a folder, and nothing else be started.

    Raises:
        Wrong: something was.
    """
    _watch.seen, _watch.inside, _watch.is_on = [], inside, True
    try:
        yield
    finally:
        _watch.is_on = False
        if _watch.seen:
            raise Wrong(f"it did more than read: {_watch.seen[0]}")


def judged(attempt: Attempt, value: Any, folder: Path) -> Outcome:
    """Return what comes of `attempt(value, folder)`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            attempt(value, folder)
        except GemkernError as error:
            wrong = _fault_of(str(error))
            where = _place(error)
            outcome = Outcome("failed", wrong, where) if wrong else Outcome("refused", str(error))
        except Exception as error:
            outcome = Outcome("failed", f"{type(error).__name__}: {error}"[:600], _place(error))
        else:
            outcome = Outcome("accepted")
    unprintable = [str(one.message) for one in said if not str(one.message).isprintable()]
    if outcome.verdict != "failed" and unprintable:
        return Outcome("failed", f"an unprintable warning: {unprintable[0][:300]!r}", "a warning")
    return outcome


def _fault_of(message: str) -> str:
    """Return what is wrong with a message; an empty text if nothing is."""
    if not message.strip():
        return "an empty message"
    if not message.isprintable():
        return f"an unprintable message: {message[:300]!r}"
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:300]!r}"
    return ""


def _place(error: BaseException) -> str:
    """Return the last line of our own on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        one for one in frames if one.filename.startswith((f"{ROOT}/gemkern", f"{ROOT}/kernels"))
    ]
    if not ours:
        return "nothing of ours"
    last = ours[-1]
    return f"{Path(last.filename).relative_to(ROOT)}:{last.lineno} {last.name}"


def _serve(connection: Connection, folder: str) -> None:
    # A Ctrl-C is the parent's, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    import gemkern.cli.app  # noqa: F401

    (now,) = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(now) + MOST_MEMORY, hard))
    sys.addaudithook(_watch.hear)
    connection.send("ready")
    while True:
        try:
            attempt, value = connection.recv()
        except EOFError:
            return
        connection.send(judged(attempt, value, Path(folder)))
