"""What an optimiser remembers, while layers are compressed and expanded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    try:
        yield
    finally:
        for layer, remembered, name, memory in whole:
            remembered[name] = layer.gather(memory)


def whole_state(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, layers: Iterable[Any]
) -> dict[str, Any]:
    """Return the state_dict of `optimizer` with what it remembers of `layers` spread."""
    return _changed(state, optimizer, layers, lambda layer, memory: layer.spread(memory))


def own_state(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, layers: Iterable[Any]
) -> dict[str, Any]:
    """Undo `whole_state`, for `layers` in the form that they have now."""
    return _changed(state, optimizer, layers, lambda layer, memory: layer.gather(memory))


def _changed(
    state: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    layers: Iterable[Any],
    change: Callable[[Any, Tensor], Tensor],
) -> dict[str, Any]:
    compressed = [layer for layer in layers if getattr(layer, "is_compressed", False)]
    owners = {one: layer for layer in compressed for one in (layer.weight, layer.scores)}
    groups = zip(state["param_groups"], optimizer.param_groups, strict=False)
    names = {
        name: owners[parameter]
        for saved, own in groups
        for name, parameter in zip(saved["params"], own["params"], strict=False)
        if parameter in owners
    }
    memories = {
        name: {
            key: change(names[name], one) if name in names and isinstance(one, Tensor) else one
            for key, one in memory.items()
        }
        for name, memory in state["state"].items()
    }
    return {**state, "state": memories}
