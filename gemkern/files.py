"""Files that are either whole or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gemkern.errors import GemkernError


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, which then takes the name `path`.

    Whatever fails (a full disk, an interrupt, an error in `write`), a file that stood at `path`
    is untouched and no other is left behind.

    Raises:
        GemkernError: the operating system refused; the message names the path and the reason.
    """
    final = Path(path)
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
        temporary = Path(name)
        os.close(handle)
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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
