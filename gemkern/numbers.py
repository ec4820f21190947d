"""Whole numbers, whichever library they come from."""

from __future__ import annotations

import operator
from typing import Any

from gemkern.errors import GemkernError

# Of a search or a finetuning; schedules are planned epoch by epoch.
MOST_EPOCHS = 10**6


def whole_number(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return `value`, an integer of Python, NumPy or torch, as an int.

    Raises:
        GemkernError: it is none, below `least`, or above `most`.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise GemkernError(f"{what} is {value!r}: give a whole number") from None
    if least is not None and number < least:
        raise GemkernError(f"{what} is {shown(number)}: give at least {least}")
    if most is not None and number > most:
        raise GemkernError(f"{what} is {shown(number)}: give at most {most}")
    return number


def shown(number: int) -> str:
    """Return a whole number for a sentence: its digits, or, where they are many, how many bits."""
    return str(number) if number.bit_length() <= 64 else f"a number of {number.bit_length()} bits"
