"""Whole numbers, whichever library they come from."""

from __future__ import annotations

import operator
from typing import Any

from gemkern.errors import GemkernError


def whole_number(what: str, value: Any, least: int | None = None) -> int:
    """Return `value`, an integer of Python, NumPy or torch, as an int.

    Raises:
        GemkernError: it is none, or below `least`.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise GemkernError(f"{what} is {value!r}: give a whole number") from None
    if least is not None and number < least:
        raise GemkernError(f"{what} is {number}: give at least {least}")
    return number
