"""Which backend serves an operator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from gemkern.errors import GemkernError
from gemkern.kernels.table import BACKENDS, OPERATORS, load

VARIABLE = "GEMKERN_BACKEND"
# What `os.environ` keeps: it answers at once, where that raises and catches for what is not set.
_SET: Mapping[Any, Any] = os.environ._data  # type: ignore[attr-defined]
_KEY = os.environ.encodekey(VARIABLE)
CHOICES = ("auto", *BACKENDS)
# The devices of a backend (any, for the reference), and what it is written in, with the command
# that installs it.
DEVICES = {"gpu": "cuda", "cpu": "cpu"}
PACKAGES = {"gpu": ("triton", "pip install 'gemkern[gpu]'"), "cpu": ("numba", "pip install numba")}


def choose(operator: str, device: str, backend: str | None = None) -> str:
    """Return the name of the backend that serves `operator` for tensors on a `device` type.

    An explicit `backend` goes first, then the environment variable GEMKERN_BACKEND, then "auto":
    the first of gpu, cpu, reference that can serve.

    Raises:
        GemkernError: there is no such backend, none that was asked for can serve, or this process
            was forked from one whose threads it has not got.
    """
    if _lost_threads.here and device == "cpu" and torch.get_num_threads() > 1:
        raise GemkernError(
            f"{operator} would wait for ever for the threads of the process that this one was "
            "forked from: start it by spawn, or call torch.set_num_threads(1) in it"
        )
    wanted = backend or (os.environ[VARIABLE] if _KEY in _SET else "") or "auto"
    return _choose(operator, device, wanted)


def kernel(operator: str, device: str, backend: str | None = None) -> Callable[..., Any]:
    """Return the function of the backend that `choose` names."""
    return _load(operator, choose(operator, device, backend))


def availability() -> dict[str, dict[str, str]]:
    """Return for each operator and backend why it cannot serve; "" where it can."""
    return {
        operator: {backend: _missing(operator, backend) for backend in BACKENDS}
        for operator in OPERATORS
    }


_load = cache(load)


@cache
def _choose(operator: str, device: str, wanted: str) -> str:
    if wanted not in CHOICES:
        raise GemkernError(
            f"no backend is called {wanted!r} (argument backend, or {VARIABLE}): "
            f"choose one of {', '.join(CHOICES)}"
        )
    refusals = {
        name: _missing(operator, name) or _misplaced(name, device, named=name == wanted)
        for name in BACKENDS
    }
    for name in BACKENDS if wanted == "auto" else (wanted,):
        if not refusals[name]:
            return name
    reasons = "; ".join(f"{name}: {reason or 'can serve'}" for name, reason in refusals.items())
    raise GemkernError(
        f"{operator} cannot run on the backend {wanted!r} ({reasons}): "
        "choose one that can serve, or auto"
    )


class _LostThreads:
    """Whether this process was forked from one that ran kernels in threads."""

    here = False

    def note_fork(self) -> None:
        pool = sys.modules.get("numba.np.ufunc.parallel")
        # A kernel that asked for its threads would end the process.
        self.here = self.here or bool(getattr(pool, "_is_initialized", False))
        _choose.cache_clear()


_lost_threads = _LostThreads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lost_threads.note_fork)


def _missing(operator: str, backend: str) -> str:
    entry = OPERATORS[operator][backend]
    if entry.module is None:
        return entry.reason
    package, command = PACKAGES.get(backend, (None, None))
    if package is not None and find_spec(package) is None:
        return f"{package} is not installed: {command}"
    return ""


def _misplaced(backend: str, device: str, named: bool) -> str:
    # Triton's interpreter runs kernels on the CPU: to prove them, too slow to be chosen unnamed.
    if backend == "gpu" and device == "cpu" and named and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if backend == "cpu" and _lost_threads.here:
        return "Numba's threads did not come along when this process was forked: start it by spawn"
    home = DEVICES.get(backend, device)
    return "" if device == home else f"its tensors live on {home}, and these on {device}"
