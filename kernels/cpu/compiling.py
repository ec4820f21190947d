"""A word when Numba compiles, which may take half a minute; the disk keeps the code."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path

from numba import njit
from numba.core import event

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
    """Delete from the disk what was compiled before one of this folder's files was changed.

    Numba looks at the file of a function, but not at those of the functions that it calls: new
    ones would hand old ones what they do not understand.
    """
    changed = max(source.stat().st_mtime for source in Path(__file__).parent.glob("*.py"))
    folder = _nothing.stats.cache_path
    for index in Path(folder).glob("*.nbi") if folder else ():
        with suppress(OSError):
            if index.stat().st_mtime < changed:
                index.unlink()


@njit(cache=True)
def _nothing() -> None:
    """Be a function whose code would lie where that of the kernels does."""


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
