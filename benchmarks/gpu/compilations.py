"""How many kernels Triton compiled meanwhile, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton


@dataclass
class Compilations:
    """Kernels that were not found in Triton's cache, and the seconds that they took."""

    kernels: int = 0
    seconds: float = 0.0


@contextmanager
def compilations() -> Iterator[Compilations]:
    """Count what the body compiles, in this process."""
    counted = Compilations()
    knobs = triton.knobs.compilation
    before = knobs.listener

    def listen(*, times: Any, cache_hit: bool, **of: Any) -> None:
        if not cache_hit:
            counted.kernels += 1
            counted.seconds += 1e-6 * times.total
        if before is not None:
            before(times=times, cache_hit=cache_hit, **of)

    knobs.listener = listen
    try:
        yield counted
    finally:
        knobs.listener = before
