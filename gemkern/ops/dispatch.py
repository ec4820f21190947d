"""Which backend serves an operator."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from gemkern.errors import GemkernError
from gemkern.kernels.table import BACKENDS, OPERATORS, load

VARIABLE = "GEMKERN_BACKEND"
CHOICES = ("auto", *BACKENDS)
# What each backend is written in, and the command that installs it.
PACKAGES = {"gpu": ("triton", "pip install 'gemkern[gpu]'"), "cpu": ("numba", "pip install numba")}


def kernel(operator: str, backend: str | None) -> Callable[..., Any]:
    """Return the function that serves `operator`.

    An explicit `backend` goes first, then the environment variable GEMKERN_BACKEND, then "auto":
    the first backend, in the order gpu, cpu, reference, that has the operator.

    Raises:
        GemkernError: there is no such backend, or none that was asked for can serve.
    """
    return _kernel(operator, backend or os.environ.get(VARIABLE) or "auto")


@cache
def _kernel(operator: str, wanted: str) -> Callable[..., Any]:
    if wanted not in CHOICES:
        raise GemkernError(
            f"no backend is called {wanted!r} (argument backend, or {VARIABLE}): "
            f"choose one of {', '.join(CHOICES)}"
        )
    refusals = {backend: _refusal(operator, backend) for backend in BACKENDS}
    for backend in BACKENDS if wanted == "auto" else (wanted,):
        if not refusals[backend]:
            return load(operator, backend)
    reasons = "; ".join(f"{backend}: {reason or 'serves'}" for backend, reason in refusals.items())
    raise GemkernError(
        f"{operator} cannot run on the backend {wanted!r} ({reasons}): "
        f"choose one that serves, or leave {VARIABLE} at auto"
    )


def availability() -> dict[str, dict[str, str]]:
    """Return for each operator and backend why it cannot serve; "" where it can."""
    return {
        operator: {backend: _refusal(operator, backend) for backend in BACKENDS}
        for operator in OPERATORS
    }


def _refusal(operator: str, backend: str) -> str:
    entry = OPERATORS[operator][backend]
    if entry.module is None:
        return entry.reason
    package, command = PACKAGES.get(backend, (None, None))
    if package is not None and find_spec(package) is None:
        return f"{package} is not installed: {command}"
    return ""
