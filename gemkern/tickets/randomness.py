"""Random numbers for tickets: the same on every device, and apart from those of the weights."""

from __future__ import annotations

import hashlib

import torch

from gemkern.numbers import whole_number

# Rivals draw positions and weights of their own: a shift that keeps their seeds apart from a run's.
RIVAL_SEED = 10_000


def generator(purpose: str, seed: int) -> torch.Generator:
    """Return a CPU generator that depends on nothing but `purpose` and `seed`.

    Networks are initialised from the bare seed: scores drawn from it too would repeat the very
    numbers that the weights were made of.

    Raises:
        GemkernError: the seed is no whole number.
    """
    seed = whole_number("the seed", seed)
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
