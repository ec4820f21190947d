"""The table of small networks: what builds each, and the shape of what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Make = TypeVar("Make", bound=Callable[[], nn.Module])

IMAGES, TOKENS, VECTORS = (8, 3, 12, 12), (8, 10, 16), (8, 32)

NETS: dict[str, Callable[[], nn.Module]] = {}
SHAPES: dict[str, tuple[int, ...]] = {}


def net(name: str, shape: tuple[int, ...] = IMAGES) -> Callable[[Make], Make]:
    """Enter what builds a network into the table, to be built from one seed."""

    def enter(make: Make) -> Make:
        def seeded() -> nn.Module:
            torch.manual_seed(0)
            return make()

        assert name not in NETS, f"two networks are called {name}"
        NETS[name], SHAPES[name] = seeded, shape
        return make

    return enter


def inputs_of(name: str, seed: int) -> Tensor:
    """Return what the network takes."""
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))
