"""Files that are either whole or absent."""

from __future__ import annotations

import glob
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gemkern.errors import GemkernError

try:
    import fcntl
except ImportError:
    # Where there are no such locks, what an interrupted writer left stays.
    fcntl = None  # type: ignore[assignment]


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that what is at `path`, if anything, is a file on a disk.

    Whoever reads a pipe or a device may wait for ever, or never come to its end.

    Raises:
        GemkernError: it is something else, or no file is called so.
        OSError: it cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except ValueError as error:
        raise _no_name(path, error) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise GemkernError(f"{path} is {what}: give a file on a disk")


def check_place(path: str | os.PathLike[str]) -> None:
    """Check that something could lie at `path`, which need not be there.

    Raises:
        GemkernError: the operating system refuses to look: the name is too long or none, or a
            folder on the way is forbidden or none.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise GemkernError(
            f"could not write {path}: {error.strerror}; choose a place that is not below a file"
        ) from error
    except ValueError as error:
        raise _no_name(path, error) from error
    except OSError as error:
        raise GemkernError(
            f"{path} cannot be looked at ({error.strerror}): choose a shorter path, or one that "
            "may be read"
        ) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, which then takes the name `path`.

    Whatever fails (a full disk, an interrupt, an error in `write`), a file that stood at `path`
    is untouched and no other is left behind. What a writer that was killed left behind goes with
    the next one.

    Raises:
        GemkernError: the operating system refused; the message names the path and the reason.
    """
    final = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
        temporary = Path(name)
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(final)
    except OSError as error:
        raise GemkernError(
            f"could not write {final}: {error.strerror or error}; "
            "free some space or choose a folder that can be written"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write `content` as JSON, whole or not at all.

    A number that is not finite is written as null, a path as a string.

    Raises:
        GemkernError: it cannot be written.
    """
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def plain(value: Any) -> Any:
    """Return `value` in JSON's own types: paths as strings, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _no_name(path: str | os.PathLike[str], error: ValueError) -> GemkernError:
    return GemkernError(f"{path} is the name of no file ({error}): choose another")


def _remove_leftovers(final: Path) -> None:
    """Remove what writers left who are no more: they hold a lock as long as they live."""
    if fcntl is None:
        return
    # As `tempfile` names them: an editor's own ".name.swp" is none.
    for leftover in final.parent.glob(f".{glob.escape(final.name)}.{8 * '[a-z0-9_]'}"):
        try:
            handle = os.open(leftover, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)
        except OSError:
            pass
        finally:
            os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
