"""A user's own networks and data, by the name "package.module:function"."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from gemkern.errors import GemkernError


def is_own(name: str) -> bool:
    """Return whether `name` is that of a user's own function."""
    return ":" in name


def find(name: str) -> Callable[..., Any]:
    """Return the function called "package.module:function"; modules beside the caller are found.

    Raises:
        GemkernError: there is no such module, it cannot be imported, or it has no such function.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        # As `python -m` does; an installed command has the folder of commands there.
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise GemkernError(
            f"{name}: the module {module_name!r} cannot be imported ({error}): give "
            "package.module:function, and run where the package is or install it"
        ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise GemkernError(
            f"{name}: the module {module_name!r} has no function {path!r}: give "
            "package.module:function"
        )
    return found


def name_of(function: Callable[..., Any]) -> str:
    """Return "package.module:function" of a function, whether or not it can be found by it."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def call(function: Callable[..., Any], **offers: Any) -> Any:
    """Call `function` with those of `offers` that its signature takes.

    Raises:
        GemkernError: it needs something else.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function(**offers)
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = {
        one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    given = {name: value for name, value in offers.items() if takes_all or name in named}
    missing = [
        one.name
        for one in parameters
        if one.default is one.empty
        and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        and one.name not in given
    ]
    if missing:
        raise GemkernError(
            f"{name_of(function)} needs {missing[0]!r}, which is not known here: give it a "
            f"default, or take some of {', '.join(offers)}"
        )
    return function(**given)
