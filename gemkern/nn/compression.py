"""Masked layers reduced to the weights that remain: what is frozen takes no memory and no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops
from gemkern.nn.door import close_doors

# Of a pattern, all but the shape.
_FIELDS = ops.Pattern._fields[1:]
_ENTRIES = ("weight", "scores", "active")


class Compressible(nn.Module):
    """A masked layer whose weight, scores and active can be compressed to what is active.

    Compressed, the three are flat, [nnz], in row-major order of the places that were active; they
    stay the same parameters. The layer's state_dict is that of the whole layer in either form:
    weights that are not active stay what they were, their scores are 0.
    """

    weight: Any
    scores: Any
    active: Tensor
    effective: Any
    positions: Tensor
    whole_weight: Tensor
    # The buffer `active` and its version, as `compress` left it; no copy of the layer keeps it.
    _compressed_active: tuple[Tensor, int] | None = None

    @property
    def is_compressed(self) -> bool:
        return "whole_weight" in self._buffers

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The shape of the whole weight, in either form."""
        return tuple((self.whole_weight if self.is_compressed else self.weight).shape)

    @property
    def is_unmasked(self) -> bool:
        """Whether the layer is compressed and all its weights are active, as far as is known.

        A change of `active` is noticed by its version, which `.data` passes by.
        """
        if self._compressed_active is None:
            return False
        active, version = self._compressed_active
        return self._buffers["active"] is active and active._version == version

    @torch.no_grad()
    def compress(self) -> None:
        """Set aside what is not active, for good. Reads the device, and drops gradients."""
        self.expand()
        pattern = ops.pattern(self.active)
        whole_weight = self.weight.detach()
        self._replace(lambda whole: whole.flatten()[pattern.positions])
        self.register_buffer("whole_weight", whole_weight, persistent=False)
        for name in _FIELDS:
            self.register_buffer(name, getattr(pattern, name), persistent=False)
        self._compressed_active = self.active, self.active._version

    @torch.no_grad()
    def expand(self) -> None:
        """Return to the whole weight; drops gradients."""
        if self.is_compressed:
            weight = self._spread_weight(self.weight)
            self._replace(self.spread)
            self.weight.data = weight
            self._compressed_active = None
            for name in ("whole_weight", *_FIELDS):
                delattr(self, name)

    def spread(self, values: Tensor) -> Tensor:
        """Return `values` [nnz] in the shape of the whole weight, 0 where nothing remains.

        Of a layer that is not compressed, or where `values` are no such values, return them.
        """
        if not self.is_compressed or values.shape != self.positions.shape:
            return values
        whole = torch.zeros_like(self.whole_weight, dtype=values.dtype)
        return _put(whole, self.positions, values)

    def gather(self, whole: Tensor) -> Tensor:
        """Undo `spread`: return what remains of a tensor in the shape of the whole weight."""
        if not self.is_compressed or whole.shape != self.whole_shape:
            return whole
        return whole.flatten()[self.positions]

    def pattern(self) -> ops.Pattern:
        """Return where the weights of a compressed layer remain."""
        # Every step asks every layer, and the way through __getattr__ takes four times as long.
        buffers: dict[str, Any] = self._buffers
        return ops.Pattern(
            tuple(buffers["whole_weight"].shape), *[buffers[name] for name in _FIELDS]
        )

    def pattern_buffers(self) -> list[Tensor]:
        """Return the buffers that say where the weights of a compressed layer remain."""
        buffers: dict[str, Any] = self._buffers
        return [buffers[name] for name in _FIELDS if name in buffers]

    def values(self) -> Tensor:
        """Return the effective weights of a compressed layer, [nnz]."""
        if self.scores is None:
            if self.is_unmasked and not torch.compiler.is_compiling():
                return self.weight
            # PyTorch's own select costs a tenth of an operator's call.
            return torch.where(self.active, self.weight, 0.0)
        return ops.effective_weight([self.weight], [self.scores], [self.active])[0]

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change weight, scores and active to another shape, in place."""
        self.effective = None
        for name in _ENTRIES:
            tensor = getattr(self, name)
            if tensor is not None:
                tensor.grad = None
                tensor.data = change(tensor.data)

    def _spread_weight(self, values: Tensor) -> Tensor:
        """Return the whole weight with `values` where it is active."""
        return _put(self.whole_weight.clone(), self.positions, values.detach())

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_compressed:
            for name in _ENTRIES:
                entry = destination.get(f"{prefix}{name}")
                if entry is not None:
                    destination[f"{prefix}{name}"] = self.spread(entry.detach())
            destination[f"{prefix}weight"] = self._spread_weight(self.weight)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if self.is_compressed and isinstance(weight, Tensor):
            if weight.shape == self.whole_shape:
                self.whole_weight.copy_(weight)
            for name in _ENTRIES:
                entry = state_dict.get(f"{prefix}{name}")
                if isinstance(entry, Tensor):
                    state_dict[f"{prefix}{name}"] = self.gather(entry)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def compressible_layers(model: nn.Module) -> Iterator[tuple[str, Compressible]]:
    """Yield the layers of `model` that can be compressed, by qualified name."""
    for name, module in model.named_modules():
        if isinstance(module, Compressible):
            yield name, module


def is_accelerated(model: nn.Module) -> bool:
    """Return whether a layer of `model` is compressed (`gemkern.accelerate`)."""
    return any(layer.is_compressed for _, layer in compressible_layers(model))


def decelerate(model: nn.Module) -> nn.Module:
    """Undo `gemkern.accelerate`, in place; return the model. A dense one stays as it is."""
    for _, layer in compressible_layers(model):
        layer.expand()
    close_doors(model)
    return model


def _put(whole: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Write `values` to row-major `positions` of `whole`, whatever its strides; return it."""
    flat = whole.contiguous().view(-1)
    flat[positions] = values
    return whole.copy_(flat.view(whole.shape))
