"""Which modules of a model are masked layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gemkern.errors import GemkernError

# What torch.compile calls the model inside; to import its class takes seconds.
COMPILED = "_orig_mod"


@runtime_checkable
class MaskedLayer(Protocol):
    """A module with a weight and its mask: `active` (bool) and `scores` (float32) or None."""

    weight: Tensor
    active: Tensor

    @property
    def scores(self) -> Tensor | None: ...


# A model, its masked layers, or groups of them with options of their own.
Layers = nn.Module | Iterable[MaskedLayer] | Iterable[Mapping[str, Any]]


def masked_layers(model: nn.Module) -> dict[str, Any]:
    """Return the masked layers of `model` by qualified name, in the order of `named_modules()`.

    Raises:
        GemkernError: the model has none.
    """
    layers = {name: module for name, module in model.named_modules() if is_masked(module)}
    if not layers:
        raise GemkernError(
            f"the model {type(model).__name__} has nothing to mask: "
            "call gemkern.convert(model) first, on a model with convolutions or linear layers"
        )
    return layers


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of what torch.compile and data parallelism put around it.

    Its parameters are the same, and its names are those that a fresh model has.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif COMPILED in model._modules:
            model = model.get_submodule(COMPILED)
        else:
            return model


def whole_shape(layer: Any) -> torch.Size:
    """Return the shape of a layer's weight; where the layer is compressed, that of all of it."""
    return torch.Size(getattr(layer, "whole_shape", layer.weight.shape))


def density(model: nn.Module) -> float:
    """Return the fraction of the maskable weights of `model` that is active; reads the device.

    Raises:
        GemkernError: the model has no masked layers.
    """
    layers = masked_layers(unwrapped(model)).values()
    left = torch.stack([layer.active.sum().cpu() for layer in layers]).sum()
    return int(left) / sum(whole_shape(layer).numel() for layer in layers)


def is_sharded(tensor: object) -> bool:
    """Return whether `tensor` is a DTensor; to import its class takes seconds."""
    return type(tensor).__name__ == "DTensor"


def is_masked(module: object) -> bool:
    """Return whether `module` is a masked layer: a weight, and bool `active` of its shape."""
    active = getattr(module, "active", None)
    if not isinstance(active, Tensor) or active.dtype != torch.bool:
        return False
    # Where the weight is computed, to read it may change it: it is asked for last.
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and active.shape == weight.shape


def grouped(layers: Layers) -> Iterator[tuple[list[MaskedLayer], dict[str, Any]]]:
    """Yield the masked layers of each group with the group's own options.

    Raises:
        GemkernError: a group names no layers, or a model has none that is masked.
    """
    if isinstance(layers, nn.Module):
        yield _members(layers), {}
        return
    given: list[Any] = list(layers)
    if not all(isinstance(group, Mapping) for group in given):
        given = [{"layers": given}]
    for group in given:
        if "layers" not in group:
            raise GemkernError(
                f"a group has the keys {sorted(group)} and no layers: "
                'give {"layers": model or layers, ...}'
            )
        yield (
            _members(group["layers"]),
            {key: value for key, value in group.items() if key != "layers"},
        )


def _members(layers: Any) -> list[MaskedLayer]:
    if is_masked(layers):
        return [layers]
    return list(masked_layers(layers).values() if isinstance(layers, nn.Module) else layers)
