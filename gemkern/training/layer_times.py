"""Single layers timed dense and sparse, on inputs like those that they get."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gemkern import ops
from gemkern.nn import plain

WARM_UP, TIMED = 2, 2


class Inputs:
    """What the inputs of layers look like: noted in one step, by hooks.

    Attributes:
        seen: shape and whether it needs a gradient, by name of the layer.
    """

    def __init__(self) -> None:
        self.seen: dict[str, tuple[tuple[int, ...], bool]] = {}
        self._hooks: list[Any] = []

    def watch(self, layers: Mapping[str, Any]) -> None:
        """Note the inputs of `layers`, until `leave`."""
        for name, layer in layers.items():
            self._hooks.append(layer.register_forward_pre_hook(_Note(name, self.seen)))

    def leave(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Note:
    def __init__(self, name: str, seen: dict[str, tuple[tuple[int, ...], bool]]) -> None:
        self._name, self._seen = name, seen

    def __call__(self, layer: Any, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            self._seen[self._name] = tuple(arguments[0].shape), arguments[0].requires_grad


def slower_sparse(layers: Mapping[str, Any], inputs: Inputs) -> set[str]:
    """Return the names of `layers` that take longer compressed, forward and backward, alone."""
    return {
        name
        for name, seen in inputs.seen.items()
        if _seconds(layers[name], *seen, compressed=True)
        > _seconds(layers[name], *seen, compressed=False)
    }


def _seconds(
    layer: Any, shape: tuple[int, ...], needs_gradient: bool, *, compressed: bool
) -> float:
    one = copy.deepcopy(layer)
    one.expand()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if compressed:
        one.compress()
        x = ops.batch_last(x) if x.dim() == 4 else x
    x.requires_grad_(needs_gradient)

    def step() -> float:
        started = time.perf_counter()
        # Without the hooks of the layer.
        y = plain(type(one).forward(one, x))
        y.backward(y.detach())
        return time.perf_counter() - started

    with torch.enable_grad():
        return min([step() for _ in range(WARM_UP + TIMED)][WARM_UP:])
