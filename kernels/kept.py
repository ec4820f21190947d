"""Numbers that launches read on the device: filled once, and found again.

A fill is over before anyone hears of it, and has a stream of its own: whichever stream reads what
was filled has nothing to wait for, and a graph that is captured meanwhile holds no copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from itertools import islice
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

# More than any step reads: an eager step of ResNet-50 has some 200 tables.
MOST = 4096

Item = TypeVar("Item")

# The least recently read first.
_kept: OrderedDict[Hashable, tuple[torch.device, Any]] = OrderedDict()
# A captured graph reads at every replay what it read at first: it lives as long as the process.
_captured: dict[Hashable, Any] = {}
_lock = RLock()


def kept(key: Hashable, device: torch.device, make: Callable[[], Item]) -> Item:
    """Return what `make` returned when `key` was asked for first; it lies on `device`."""
    with _lock:
        found = _kept.get(key)
        if found is None:
            found = _kept[key] = device, make()
        else:
            _kept.move_to_end(key)
        if _is_capturing(device):
            _captured[key] = found
        elif len(_kept) > MOST:
            _let_go()
    return found[1]


def number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `value` as a 0-d tensor, for reading alone: whoever asks for the same has the same."""
    return kept(("number", value, dtype, device), device, lambda: filled(value, dtype, device))


def filled(numbers: float | Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `numbers` on `device`, where they are by now, for every stream."""
    # Not as something that is traced, nor as an inference tensor, which nobody could save.
    with _disable_current_modes(), torch.inference_mode(False):
        on_host = torch.tensor(numbers, dtype=dtype)
        if device.type != "cuda":
            return on_host.to(device)
        with torch.cuda.stream(_stream(device)):
            # Out of memory that is not pinned: the host waits for this copy, and for no other work.
            return on_host.to(device)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _is_capturing(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _let_go() -> None:
    """Forget the half that was not read for longest, once nothing can read it any more."""
    oldest = list(islice(_kept, MOST // 2))
    for device in {_kept[key][0] for key in oldest}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    for key in oldest:
        del _kept[key]
