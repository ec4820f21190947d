"""Lists of entries, made once for a pattern: it stays the same from step to step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

# Lists of one pattern that are kept, of as many sizes of images and batch.
MOST = 32


class _Made:
    """The lists of a pattern, by what they were made for."""

    def __init__(self, positions: Tensor) -> None:
        self.version = positions._version
        self.lists: dict[Hashable, Any] = {}


# By the identity of a pattern's positions, as long as those live.
_made: dict[int, _Made] = {}


def lists_of(pattern: Pattern, purpose: Hashable, make: Callable[[], Any]) -> Any:
    """Return make(), made once for a purpose while the positions of a pattern stay what they are.

    A change of the positions is noticed by their version, which `.data` passes by.
    """
    positions = pattern.positions
    made = _made.get(id(positions))
    if made is None or made.version != positions._version:
        if made is None:
            weakref.finalize(positions, _made.pop, id(positions), None)
        made = _made[id(positions)] = _Made(positions)
    found = made.lists.get(purpose)
    if found is None:
        if len(made.lists) == MOST:
            made.lists.clear()
        found = made.lists[purpose] = make()
    return found
