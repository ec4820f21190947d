"""Where Numba keeps compiled kernels on the disk, and what becomes of what does not load.

Numba's own cache ends the process where no folder can be written, where a file is damaged, and
where the disk is full. Kernels are worth more than their cache: here it falls back, and heals.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from numba.core import caching

logger = logging.getLogger(__name__)

DIGEST_BYTES = 32
ADVICE = "set NUMBA_CACHE_DIR to a folder that can be written"


def keep_code(dispatcher: Any) -> None:
    """Let a function that Numba compiles be kept on the disk, if there is a place for it."""
    try:
        # What Numba's own `cache=True` sets, of another class.
        dispatcher._cache = _KeptCode(dispatcher.py_func)
    except (OSError, RuntimeError):
        _say(f"compiled CPU kernels cannot be kept, and are compiled at each start: {ADVICE}")


class _TemporaryFolder(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """A folder below that of temporary files, which nobody else can write."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._subpath = self.get_suitable_cache_subpath(py_file)

    def get_cache_path(self) -> str:
        return str(_private_folder() / self._subpath)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        found = super().from_function(py_func, py_file)
        if found is not None:
            _say(
                "compiled CPU kernels can be kept neither beside the package nor in a home folder, "
                f"but in %s, which may not last: {ADVICE}",
                _private_folder(),
            )
        return found


class _Place(caching.CompileResultCacheImpl):
    """Where the code of a function lies: where Numba puts it, else in a temporary folder."""

    def __init__(self, py_func: Any) -> None:
        self._locator_classes = _places()
        super().__init__(py_func)


def _places() -> list[Any]:
    """Return Numba's ways to find a folder, and then ours."""
    known = list(caching.CompileResultCacheImpl._locator_classes)
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~")
    if not os.path.isabs(home):
        # A user whom nobody knows: a folder "~" would be made wherever the process stands.
        known = [one for one in known if not one.__name__.endswith("UserWideCacheLocator")]
    return [*known, _TemporaryFolder]


class _WholeFiles(caching.IndexDataCacheFile):
    """Files that end in a digest: what was cut off or changed is never unpickled."""

    def save(self, key: Any, data: Any) -> None:
        """Save the code before the index that leads to it, under a name that no other has.

        In Numba's order a process that is killed in between leads to older code, and two that save
        at once may lead to each other's.
        """
        overloads = self._load_index()
        name = hashlib.sha256(self._dump(key)).hexdigest()[:16]
        overloads[key] = self._data_name_pattern.replace("{number:d}", name)
        self._save_data(overloads[key], data)
        self._save_index(overloads)

    def discard(self, key: Any) -> None:
        """Delete the code of `key`, and the index where that does not load."""
        try:
            found = [self._data_path(self._load_index()[key])]
        except Exception:
            found = [self._index_path]
        for path in found:
            os.unlink(path)

    def _load_index(self) -> Any:
        _check_whole(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _check_whole(self._data_path(name))
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[Any]:
        content = BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


class _KeptCode(caching.FunctionCache):
    """The cache of one function: no failure of it reaches the caller."""

    _impl_class = _Place

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        stamp = self._impl.locator.get_source_stamp()
        self._files = _WholeFiles(self._cache_path, self._impl.filename_base, stamp)
        self._cache_file = self._files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None where it is to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # damaged bytes can raise nearly anything
            _say(
                "compiled CPU kernels in %s did not load (%s): what does not is deleted and "
                "compiled again",
                self._cache_path,
                error,
            )
        try:
            self._files.discard(self._index_key(sig, target_context.codegen()))
        except OSError:
            self.disable()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled function, if it can be."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self.disable()
            _say(
                "compiled CPU kernels cannot be kept in %s (%s), and are compiled again at the "
                f"next start: free some space, or {ADVICE}",
                self._cache_path,
                error,
            )


def _check_whole(path: str) -> None:
    """Check the digest of a file, if there is one.

    Raises:
        ValueError: it is not the content's.
        OSError: the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise ValueError(f"{Path(path).name} is damaged")


def _private_folder() -> Path:
    """Return this user's folder below that of temporary files, made if need be.

    Code is run that lies there: a folder that another user made, or may write, is none.

    Raises:
        OSError: there is none.
    """
    name = f"gemkern-{os.geteuid()}" if hasattr(os, "geteuid") else "gemkern"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if hasattr(os, "geteuid") and (
        not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022
    ):
        raise PermissionError(f"{folder} is another user's")
    return folder


_said: set[str] = set()


def _say(sentence: str, *details: Any) -> None:
    """Warn, once in a process whatever the details: most failures meet every kernel."""
    if sentence not in _said:
        _said.add(sentence)
        logger.warning(f"gemkern: {sentence}", *details)
