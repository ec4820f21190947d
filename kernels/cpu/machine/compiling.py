"""A word when Numba compiles, which may take half a minute; the disk keeps the code."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path

from numba import njit
from numba.core import event
from numba.core.caching import _CacheLocator

logger = logging.getLogger(__name__)


@cache
def announce_compiling() -> None:
    """From now on warn, once in a process, when a kernel of this package is compiled.

    What comes from Numba's cache on the disk is not compiled. Where logging is not set up, a
    warning reaches stderr; `logging.getLogger("gemkern").setLevel("ERROR")` silences it.
    """
    event.register("numba:compile", _Announcer())


@cache
def forget_old_kernels() -> None:
    """Delete from the disk what was compiled before a file of `kernels/cpu` or geometry changed.

    Numba looks at the file of a function, but not at those of the functions that it calls: new
    ones would hand old ones what they do not understand.
    """
    files = [*Path(__file__).parents[1].rglob("*.py")]
    geometry = Path(__file__).parents[2] / "geometry.py"
    changed = max(file.stat().st_mtime for file in (*files, geometry))
    mine: str | None = _nothing.stats.cache_path
    for folder in {file.parent for file in files} if mine is not None else ():
        for index in _cache_of(folder, Path(str(mine))).glob("*.nbi"):
            with suppress(OSError):
                if index.stat().st_mtime < changed:
                    index.unlink()


def _cache_of(folder: Path, mine: Path) -> Path:
    """Return where Numba keeps the code of a folder's files, as that of this folder's at `mine`."""
    if mine.parent == Path(__file__).parent:
        return folder / mine.name
    return mine.parent / _CacheLocator.get_suitable_cache_subpath(str(folder / "any.py"))


@njit(cache=True)
def _nothing() -> None:
    """Be a function whose code would lie where that of this folder does."""


class _Announcer(event.Listener):
    """Listens to Numba, which tells of a compilation after its cache had nothing."""

    def on_start(self, event: event.Event) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""
        if module.startswith("gemkern.kernels."):
            _warn()

    def on_end(self, event: event.Event) -> None:
        pass


@cache
def _warn() -> None:
    logger.warning("gemkern: compiling CPU kernels for this machine, once: up to half a minute")
