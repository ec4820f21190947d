"""Effective weights that live between steps: an optimiser writes them, layers read them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from gemkern import ops
from gemkern.optim.layers import MaskedLayer


class Noted:
    """Tensors as they were: the same ones, unchanged in place as far as versions count that."""

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        self._tensors = tuple(tensors)
        self._versions = [tensor._version for tensor in tensors]

    def still(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether `tensors` are those that were noted, as they were."""
        return all(
            now is then and now._version == version
            for now, then, version in zip(tensors, self._tensors, self._versions, strict=True)
        )


class Effective:
    """The effective weight of one masked layer as a leaf of the graph; its gradient is dL/dw_eff.

    It counts only while the weight, scores and active that it was written from are what they were:
    whatever else changes them in place, or replaces them, is noticed by their versions. (PyTorch
    counts no version for what is written through `.data`.)

    Args:
        owner: the optimiser that writes the leaf and uses up its gradient; without it none counts.

    Attributes:
        leaf: shaped and laid out as the weight, or None until a layer has said in which dtype it
            computes.
    """

    def __init__(self, owner: Any) -> None:
        self.leaf: Tensor | None = None
        self._owner = weakref.ref(owner)
        self._wanted: torch.dtype | None = None
        self._written_from = Noted()

    def read(self, layer: MaskedLayer, dtype: torch.dtype) -> Tensor | None:
        """Return the leaf if it is the effective weight of `layer` now, in `dtype`; else None."""
        if torch.is_grad_enabled():
            self._wanted = dtype
        known = self.leaf is not None and self.leaf.dtype == dtype and self._owner() is not None
        return self.leaf if known and self._written_from.still(sources(layer)) else None

    def reserve(self, layer: MaskedLayer) -> Tensor | None:
        """Return a leaf to write to, or None if `layer` has not computed yet."""
        leaf, like = self.leaf, layer.weight
        if self._wanted is not None and (
            leaf is None or (leaf.dtype, leaf.device) != (self._wanted, like.device)
        ):
            self.leaf = torch.empty_like(like, dtype=self._wanted).requires_grad_()
        return self.leaf

    def belongs_to(self, owner: Any) -> bool:
        return self._owner() is owner

    def note_written(self, layer: MaskedLayer) -> None:
        """Note that the leaf is the effective weight of `layer` as it is now."""
        self._written_from = Noted(sources(layer))


def attach(layers: Sequence[Any], owner: Any) -> None:
    """Give each of `layers` that can hold one an effective weight that `owner` writes.

    Processes that train together share the gradients of parameters alone: they have none.
    """
    if distributed.is_available() and distributed.is_initialized():
        detach(layers)
        return
    for layer in layers:
        if hasattr(layer, "effective") and not (
            layer.effective is not None and layer.effective.belongs_to(owner)
        ):
            layer.effective = Effective(owner)


def detach(layers: Sequence[Any]) -> None:
    """Take the effective weights from `layers`: gradients go to the scores again."""
    for layer in layers:
        if hasattr(layer, "effective"):
            layer.effective = None


def leaf_of(layer: Any) -> Tensor | None:
    """Return the leaf of `layer`, or None."""
    effective = getattr(layer, "effective", None)
    return None if effective is None else effective.leaf


def leaf_grad(layer: Any) -> Tensor | None:
    """Return dL/dw_eff where it arrived at the leaf of `layer`, else None."""
    leaf = leaf_of(layer)
    return None if leaf is None else leaf.grad


def score_grad(layer: Any) -> Tensor:
    """Return dL/dscore of `layer`, wherever its gradients arrived."""
    grad = leaf_grad(layer)
    if grad is None:
        return layer.scores.grad
    product = grad.to(layer.scores.dtype) * layer.weight.to(layer.scores.dtype)
    return product if layer.scores.grad is None else product + layer.scores.grad


def clear_leaf_grads(layers: Sequence[Any]) -> None:
    for layer in layers:
        leaf = leaf_of(layer)
        if leaf is not None:
            leaf.grad = None


def write(layers: Sequence[Any]) -> None:
    """Write the effective weights of those `layers` that have computed, in one launch a dtype."""
    known = [layer for layer in layers if getattr(layer, "effective", None) is not None]
    ready = [layer for layer in known if layer.effective.reserve(layer) is not None]
    for dtype in dict.fromkeys(layer.effective.leaf.dtype for layer in ready):
        chosen = [layer for layer in ready if layer.effective.leaf.dtype == dtype]
        weights, active = [layer.weight for layer in chosen], [layer.active for layer in chosen]
        scores = [layer.scores for layer in chosen if layer.scores is not None] or None
        values = ops.effective_weight(weights, scores, active, dtype=dtype)
        # Where they are: a captured graph reads them there.
        torch._foreach_copy_([layer.effective.leaf for layer in chosen], values)
        for layer in chosen:
            layer.effective.note_written(layer)


def sources(layer: MaskedLayer) -> tuple[Tensor, ...]:
    """Return what the effective weight of `layer` is made of."""
    return tuple(one for one in (layer.weight, layer.scores, layer.active) if one is not None)
