"""A word when Numba compiles, which may take half a minute; the disk keeps the code."""

from __future__ import annotations

import logging
from functools import cache

from numba.core import event

logger = logging.getLogger(__name__)


@cache
def announce_compiling() -> None:
    """From now on warn, once in a process, when a kernel of this package is compiled.

    What comes from Numba's cache on the disk is not compiled. Where logging is not set up, a
    warning reaches stderr; `logging.getLogger("gemkern").setLevel("ERROR")` silences it.
    """
    event.register("numba:compile", _Announcer())


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
