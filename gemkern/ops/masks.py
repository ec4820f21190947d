"""Scores to masks, masks to bits, and effective weights, for the layers of a model at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.ops.checks import check_layers, check_mask
from gemkern.ops.registration import register

_MASKS = "Tensor[]? scores, Tensor[] active, float tau, str backend"

_threshold = register("threshold", f"({_MASKS}) -> Tensor[]")
_threshold_packed = register("threshold_packed", f"({_MASKS}) -> Tensor[]")
_effective_weight = register(
    "effective_weight",
    "(Tensor[] weights, Tensor[]? scores, Tensor[] active, float tau, ScalarType? dtype, "
    "MemoryFormat memory_format, str backend) -> Tensor[]",
)
_pack_mask = register("pack_mask", "(Tensor mask, str backend) -> Tensor")
_unpack_mask = register("unpack_mask", "(Tensor packed, SymInt[] shape, str backend) -> Tensor")


def threshold(
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float = 0.5,
    backend: str | None = None,
) -> list[Tensor]:
    """Return the mask of each layer: (scores >= tau) & active, bool; a NaN score is off.

    Args:
        scores: float32 per layer, or None: the masks are `active` alone.
        active: bool per layer.

    Raises:
        GemkernError: the lists or their tensors do not fit, or no backend can serve.
    """
    check_layers("threshold", active=active, scores=scores)
    return _threshold(_listed(scores), list(active), tau, backend or "")


def threshold_packed(
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float = 0.5,
    backend: str | None = None,
) -> list[Tensor]:
    """Return the masks of `threshold` as bits, uint8 [ceil(n / 8)] per layer (`pack_mask`)."""
    check_layers("threshold_packed", active=active, scores=scores)
    return _threshold_packed(_listed(scores), list(active), tau, backend or "")


def effective_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float = 0.5,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
    backend: str | None = None,
) -> list[Tensor]:
    """Return each layer's weight where its mask is on and +0.0 elsewhere, in `dtype`.

    Gradients are those of `masked_linear`: straight-through to the scores, masked to the weights.

    Args:
        weights: any float dtype, per layer.
        scores: float32 per layer, or None: the masks are `active` alone.
        active: bool per layer.
        dtype: of the result; None for the weight's.
        memory_format: of 4-d results; others keep the weight's.

    Raises:
        GemkernError: the lists or their tensors do not fit, or no backend can serve.
    """
    check_layers("effective_weight", weights=weights, active=active, scores=scores)
    for i, (weight, on) in enumerate(zip(weights, active, strict=True)):
        check_mask(f"effective_weight, layer {i}", weight, scores[i] if scores else None, on)
    return _effective_weight(
        list(weights), _listed(scores), list(active), tau, dtype, memory_format, backend or ""
    )


def pack_mask(mask: Tensor, backend: str | None = None) -> Tensor:
    """Return a bool mask as uint8 [ceil(n / 8)].

    Entry i in row-major order is bit i % 8, counted from the least significant, of byte i // 8.

    Raises:
        GemkernError: the mask is not bool, or no backend can serve.
    """
    if mask.dtype != torch.bool:
        raise GemkernError(f"pack_mask: the mask is {mask.dtype}; give a bool tensor")
    return _pack_mask(mask, backend or "")


def unpack_mask(packed: Tensor, shape: Sequence[int], backend: str | None = None) -> Tensor:
    """Return the bool mask of `shape` that `pack_mask` packed.

    Raises:
        GemkernError: `packed` is not uint8 [ceil(n / 8)], or no backend can serve.
    """
    needed = math.ceil(math.prod(shape) / 8)
    if packed.dtype != torch.uint8 or packed.shape != (needed,):
        raise GemkernError(
            f"unpack_mask: packed is {packed.dtype} {tuple(packed.shape)}; "
            f"the shape {tuple(shape)} needs uint8 ({needed},)"
        )
    return _unpack_mask(packed, list(shape), backend or "")


def _listed(tensors: Sequence[Tensor] | None) -> list[Tensor] | None:
    return None if tensors is None else list(tensors)


def _setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    weights, scores, active, ctx.tau, _, _, ctx.backend = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(*weights, *active, *(scores or ()))


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
    weights, active, scores = (ctx.saved_tensors[i * ctx.layers :][: ctx.layers] for i in range(3))
    given = list(scores) or None
    masks = _threshold(given, list(active), ctx.tau, ctx.backend)
    layers = list(zip(grads, weights, active, masks, strict=True))
    to_weights = [
        None if grad is None else torch.where(mask, grad, 0).to(weight.dtype)
        for grad, weight, _, mask in layers
    ]
    to_scores = [
        None if grad is None else torch.where(on, grad.to(score.dtype) * weight, 0).to(score.dtype)
        for (grad, weight, on, _), score in zip(layers, scores, strict=False)
    ]
    return to_weights, to_scores if scores else None, [None] * ctx.layers, None, None, None, None


_effective_weight.register_autograd(_backward, setup_context=_setup)
