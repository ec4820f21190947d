"""Numbers that launches read on the device: filled once, and found again.

A fill is over before anyone hears of it, and has a stream of its own: whichever stream reads what
was filled has nothing to wait for, and a graph that is captured meanwhile holds no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

# More than any step reads: an eager step of ResNet-50 has some 200 tables.
MOST = 4096

Item = TypeVar("Item")


@dataclass
class Entry:
    """What is kept, where it lies, and when it was asked for last, in calls."""

    item: Any
    device: torch.device
    asked: int = 0


_kept: dict[Hashable, Entry] = {}
# A captured graph reads at every replay what it read at first: it lives as long as the process.
_captured: dict[Hashable, Entry] = {}
_streams: dict[torch.device, torch.cuda.Stream] = {}
_calls = count()
_lock = RLock()


def kept(key: Hashable, device: torch.device, make: Callable[[], Item]) -> Item:
    """Return what `make` returned when `key` was asked for first; it lies on `device`."""
    with _lock:
        entry = _kept.get(key)
        if entry is None:
            # What a graph reads stays the same, also where it was let go here.
            entry = _kept[key] = _captured.get(key) or Entry(make(), device)
        entry.asked = next(_calls)
        if _is_capturing(device):
            _captured[key] = entry
        elif len(_kept) > MOST:
            _let_go()
    return entry.item


def number(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `value` as a 0-d tensor, for reading alone: whoever asks for the same has the same.

    A tensor stays as it is.
    """
    if isinstance(value, Tensor):
        return value
    return kept(("number", value, dtype, device), device, lambda: filled(value, dtype, device))


def filled(numbers: float | Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `numbers` on `device`, where they are by now, for every stream."""
    # Not as something that is traced, nor as an inference tensor, which nobody could save.
    with _disable_current_modes(), torch.inference_mode(False):
        on_host = torch.tensor(numbers, dtype=dtype, device="cpu")
        if device.type != "cuda":
            return on_host.to(device)
        with torch.cuda.stream(_stream_for_fills(device)):
            # Out of memory that is not pinned: the host waits for this copy, and for no other work.
            return on_host.to(device)


def _stream_for_fills(device: torch.device) -> torch.cuda.Stream:
    """Return a stream that is not captured now, the same one as long as it is not.

    PyTorch has 32 streams of a priority and hands them out in turn, again and again: another user
    of the same one may capture it.
    """
    stream = _streams.get(device)
    while stream is None or _captures(stream):
        # Of a priority that nobody here asks for.
        stream = _streams[device] = torch.cuda.Stream(device, priority=-1)
    return stream


def _captures(stream: torch.cuda.Stream) -> bool:
    with torch.cuda.stream(stream):
        return torch.cuda.is_current_stream_capturing()


def _is_capturing(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _let_go() -> None:
    """Forget the half that was not asked for longest, once nothing can read it any more."""
    oldest = sorted(_kept, key=lambda key: _kept[key].asked)[: MOST // 2]
    for device in {_kept[key].device for key in oldest}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    for key in oldest:
        del _kept[key]
