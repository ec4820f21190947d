# ruff: noqa: NPY002
"""The global random numbers: PyTorch's, Python's and NumPy's, as one state.

Nothing here draws from them but what users bring: dropout, data that vary, layers with noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of all global generators, and of that of a CUDA `device`."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), *rest],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Let all generators go on from `state`; that of the CUDA device, if there is one."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Run the body with generators that begin from `seed`; put back what was there after."""
    before = random_state(device)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        restore_random_state(before)
