"""What Numba compiles here: a word while it does, which takes minutes, and code that is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache as once
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numba
from gemkern.kernels.cpu.machine.kept_code import keep_code
from numba.core import event
from numba.core.caching import _CacheLocator

logger = logging.getLogger(__name__)

# Of a whole warm-up, all kernels of a race: 75 s on two fast cores, 8 minutes on two busy ones.
NOTICE = "gemkern: compiling CPU kernels for this machine, once: one to ten minutes for a race"
SECONDS_BETWEEN_WORDS = 30.0


def njit(
    function: Callable[..., Any] | None = None, /, *, cache: bool = False, **options: Any
) -> Any:
    """Be `numba.njit`, but for a cache that cannot fail (`gemkern.kernels.cpu.machine.kept_code`).

    Args:
        function: what is compiled; without one, what compiles it is returned.
        cache: keep the code on the disk, where there is a place for it.
        options: those of `numba.njit`.
    """
    if function is None:
        return partial(njit, cache=cache, **options)
    compiled = numba.njit(**options)(function)
    # Where Numba is told to compile nothing, a function stays what it is.
    if cache and compiled is not function:
        keep_code(compiled)
    return compiled


@once
def announce_compiling() -> None:
    """From now on warn, once in a process, when a kernel of this package is compiled.

    What comes from the cache on the disk is not compiled. While kernels are, a word every half a
    minute says how many were. Where logging is not set up, a warning reaches stderr;
    `logging.getLogger("gemkern").setLevel("ERROR")` silences it.
    """
    event.register("numba:compile", Announcer())


@once
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
        # Indexes, code, and what a save that was killed has left of them.
        for kept in _cache_of(folder, Path(str(mine))).glob("*.nb[ci]*"):
            with suppress(OSError):
                if kept.stat().st_mtime < changed:
                    kept.unlink()


def _cache_of(folder: Path, mine: Path) -> Path:
    """Return where Numba keeps the code of a folder's files, as that of this folder's at `mine`."""
    if mine.parent == Path(__file__).parent:
        return folder / mine.name
    return mine.parent / _CacheLocator.get_suitable_cache_subpath(str(folder / "any.py"))


@njit(cache=True)
def _nothing() -> None:
    """Be a function whose code would lie where that of this folder does."""


class Announcer(event.Listener):
    """Listens to Numba, which tells of a compilation after its cache had nothing."""

    def __init__(self) -> None:
        self._count = 0
        self._began: float | None = None
        self._spoke = 0.0

    def on_start(self, event: event.Event) -> None:
        if _is_ours(event) and self._began is None:
            self._began = self._spoke = monotonic()
            logger.warning(NOTICE)

    def on_end(self, event: event.Event) -> None:
        if not _is_ours(event) or self._began is None:
            return
        self._count += 1
        now = monotonic()
        if now - self._spoke >= SECONDS_BETWEEN_WORDS:
            self._spoke = now
            logger.warning(
                "gemkern: %d CPU kernels compiled in %.0f s", self._count, now - self._began
            )


@contextmanager
def counting(show: Callable[[int], None]) -> Iterator[None]:
    """Within this context `show` how many kernels were compiled in it, at each that is."""
    with event.install_listener("numba:compile", Counter(show)):
        yield


class Counter(event.Listener):
    """Counts what Numba compiles of this package."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._count = 0

    def on_start(self, event: event.Event) -> None:
        pass

    def on_end(self, event: event.Event) -> None:
        if _is_ours(event):
            self._count += 1
            self._show(self._count)


def _is_ours(event: event.Event) -> bool:
    module = event.data["dispatcher"].py_func.__module__ or ""
    return bool(module.startswith("gemkern.kernels."))
