"""What models take and return: tensors in containers, at any depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

Kind = TypeVar("Kind")


def found(kind: type[Kind], value: Any) -> Iterator[Kind]:
    """Yield what is of a `kind` in `value`."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from found(kind, one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from found(kind, one)
    elif is_dataclass(value):
        yield from found(kind, getattr(value, "__dict__", None))


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return `value` with what `function` makes of all that it holds."""
    if isinstance(value, dict):
        changed = {key: mapped(function, one) for key, one in value.items()}
        if type(value) is dict:
            return changed
        # One of another kind may keep its entries as attributes too.
        for key, one in changed.items():
            value[key] = one
        return value
    if isinstance(value, list | tuple):
        items = [mapped(function, one) for one in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **mapped(function, dict(vars(value))))
    return function(value)
