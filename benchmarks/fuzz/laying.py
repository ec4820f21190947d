"""Files and folders for readers, laid anew for each input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

# In the place of a file, by the name of what stands there.
STRANGE = ("pipe", "folder", "link to itself", "link to nothing")


def emptied(folder: Path) -> Path:
    """Return the folder, with nothing in it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return folder


def lay(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Let `folder` hold `files` alone, by their paths; a text is one of `STRANGE`.

    A file whose name the file system refuses is left out, and one that would lie outside or where
    there is one: to write to a pipe takes until somebody reads it.
    """
    emptied(folder)
    for name, content in files.items():
        try:
            path = Path(os.path.normpath(folder / name))
            if folder not in path.parents or os.path.lexists(path):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                _strange(path, content)
        except (OSError, ValueError):
            continue
    return folder


def _strange(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "link to itself" else path.with_name("nothing"))
