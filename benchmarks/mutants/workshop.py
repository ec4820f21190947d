"""A copy of the repository in which faults are tried."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants import once
from benchmarks.mutants.fault import Fault
from gemkern.errors import GemkernError

# Seconds that a test has; a fault that lets it run on for ever is noticed by that.
LIMIT = 600.0
# The tests of a folder in which Triton's kernels run in its interpreter.
INTERPRETED = "tests/interpreter/"
# What Numba compiles, and finds again by the file of a function and not by those that it calls.
COMPILED = ("kernels/cpu/", "kernels/geometry.py")


@dataclass(frozen=True)
class Outcome:
    """What became of tests: an exit code, None where they ran for too long, and what was said."""

    code: int | None
    said: str


class Workshop:
    """A copy of the files of a repository that git does not ignore, where its tests run.

    Code that Numba keeps beside the files comes along, with the times by which it is found again.

    Args:
        root: of the repository.
        place: a folder that is not there yet.
        limit: seconds that each test has.

    Raises:
        GemkernError: git knows no files there.
    """

    def __init__(self, root: Path, place: Path, limit: float = LIMIT) -> None:
        self._place, self._limit = place, limit
        compiled = [path.relative_to(root) for path in (root / "kernels").rglob("*.nb[ic]")]
        for name in (*_files(root), *compiled):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, place / name)

    def check(self, tests: Sequence[str]) -> Outcome:
        """Run tests as they are, all of one folder's way, in one process."""
        return self._run("gemkern", tests, {})

    def attempt(self, fault: Fault) -> Outcome:
        """Run the test of a fault while the fault is in its file."""
        with self._broken(fault), tempfile.TemporaryDirectory() as compiled:
            # Nothing that was compiled with a fault in it may be found again.
            own = {"NUMBA_CACHE_DIR": compiled} if fault.path.startswith(COMPILED) else {}
            return self._run(fault.module, [fault.test], own)

    @contextlib.contextmanager
    def _broken(self, fault: Fault) -> Iterator[None]:
        path = self._place / fault.path
        whole, times = path.read_bytes(), path.stat()
        path.write_bytes(fault.put_into(whole.decode()).encode())
        try:
            yield
        finally:
            path.write_bytes(whole)
            # What was compiled before is that of this file again.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _run(self, module: str, tests: Sequence[str], own: dict[str, str]) -> Outcome:
        options = ("-q", "-x", "-p", "no:cacheprovider")
        command = [sys.executable, once.__file__, module, *options, *tests]
        environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONPATH": str(self._place),
            **({"TRITON_INTERPRET": "1"} if is_interpreted(tests[0]) else {}),
            **own,
        }
        process = subprocess.Popen(
            command, cwd=self._place, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=self._limit * len(tests))
            return Outcome(process.returncode, said)
        except subprocess.TimeoutExpired:
            return Outcome(None, "")
        finally:
            # Also what it has started, and where this process is told to stop.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def is_interpreted(test: str) -> bool:
    """Return whether a test is one of those that run in Triton's interpreter."""
    return test.startswith(INTERPRETED)


def _files(root: Path) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    found = [name for name in names if (root / name).is_file()]
    if not found:
        raise GemkernError(f"git knows no files of {root}: faults are tried in a copy of a clone")
    return found
