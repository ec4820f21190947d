"""What an optimiser remembers, while layers are compressed and expanded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def carrying(optimizer: torch.optim.Optimizer, layers: Iterable[Any]) -> Iterator[None]:
    """Let what `optimizer` remembers of `layers` follow a change of their form in this context."""
    whole = [
        (layer, optimizer.state[parameter], name, layer.spread(memory))
        for layer in layers
        for parameter in (layer.weight, layer.scores)
        if parameter in optimizer.state
        for name, memory in optimizer.state[parameter].items()
        if isinstance(memory, Tensor)
    ]
    yield
    for layer, remembered, name, memory in whole:
        remembered[name] = layer.gather(memory)
