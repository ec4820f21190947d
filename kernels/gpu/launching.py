"""Launches, on the device where the operands lie; and what launchers ask of a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
import triton


class Chip(NamedTuple):
    """What the choice of a configuration asks of a device.

    Attributes:
        processors: multiprocessors.
        shared: bytes of shared memory that one program may have.
        rounds: whether its matrix instructions can round float32 to TF32.
    """

    processors: int
    shared: int
    rounds: bool


# What Triton's interpreter counts as: the least shared memory of the chips that we compile for.
INTERPRETER = Chip(processors=132, shared=64 * 1024, rounds=False)
_stand_in: ContextVar[Chip] = ContextVar("stand_in", default=INTERPRETER)


def launch(
    kernel: triton.JITFunction,
    grid: tuple[int, ...],
    device: torch.device,
    *arguments: Any,
    **constants: Any,
) -> None:
    """Launch `kernel` on `device`, where its operands lie; an empty grid launches nothing.

    Triton by itself would launch on the current device, whatever it is.
    """
    if 0 in grid:
        return
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](*arguments, **constants)
    else:
        kernel[grid](*arguments, **constants)


def chip_of(device: torch.device) -> Chip:
    """Return what `device` has; for one that is no GPU, what it stands in for."""
    return _chip(device) if device.type == "cuda" else _stand_in.get()


@contextmanager
def standing_in(chip: Chip) -> Iterator[None]:
    """Let tensors that lie on no GPU count as lying on `chip`."""
    token = _stand_in.set(chip)
    try:
        yield
    finally:
        _stand_in.reset(token)


@cache
def _chip(device: torch.device) -> Chip:
    found = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return Chip(
        processors=found["multiprocessor_count"],
        shared=found["max_shared_mem"],
        rounds=torch.version.hip is None,
    )
