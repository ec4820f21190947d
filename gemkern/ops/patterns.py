"""Whether a pattern is one: kernels walk memory by what it says, and believe it.

To look at its numbers takes as long as to make it. So that is done once for each pattern, and again
where one of its tensors was written to, moved or made anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.reference.pattern import Pattern, pattern

MOST_WEIGHTS = 2**31
# The attribute of a pattern's positions that says what all of it was when it was looked at: a
# dictionary of tensors costs several times as much to ask.
_SEEN = "_whole_pattern"


def check_pattern(where: str, found: Pattern) -> None:
    """Check that a pattern on the CPU is one that `gemkern.ops.pattern` could have made.

    Kernels of other devices do not walk by it; a compiler that traces has no numbers to look at.

    Raises:
        GemkernError: it is none.
    """
    shape, starts, positions = found
    if torch.compiler.is_compiling() or not type(starts) is type(positions) is Tensor:
        return
    state = (tuple(shape), id(starts), _version(starts), id(positions), _version(positions))
    if getattr(positions, _SEEN, None) == state or positions.device.type != "cpu":
        return
    if not _is_whole(shape, starts, positions):
        raise GemkernError(
            f"{where}: the pattern is not that of a mask, or was changed: make it anew by "
            "gemkern.ops.pattern, or accelerate the model again"
        )
    setattr(positions, _SEEN, state)


def _is_whole(shape: Any, starts: Tensor, positions: Tensor) -> bool:
    sides = tuple(shape)
    if len(sides) < 2 or min(sides) < 0 or math.prod(sides) > MOST_WEIGHTS:
        return False
    if len(starts) != sides[0] + 1 or starts.device != positions.device:
        return False
    if not starts.dtype == positions.dtype == torch.int64:
        return False
    active = torch.zeros(math.prod(sides), dtype=torch.bool)
    if positions.dim() != 1 or ((positions < 0) | (positions >= len(active))).any():
        return False
    active[positions] = True
    expected = pattern(active.view(sides))
    return torch.equal(starts, expected.starts) and torch.equal(positions, expected.positions)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; of those of inference mode that is not counted."""
    return -1 if tensor.is_inference() else tensor._version
