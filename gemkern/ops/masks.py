"""Scores to masks, masks to bits, and effective weights, for the layers of a model at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.reference.straight_through import product
from gemkern.kernels.reference.threshold import mask_of
from gemkern.ops.checks import FLOATS, check_layers, check_mask, check_scores
from gemkern.ops.operands import listed
from gemkern.ops.registration import LIBRARY, once, register, short_way
from gemkern.ops.scalars import Scalar, on_device

_MASKS = "Tensor[]? scores, Tensor[] active, Tensor tau, str backend"

_threshold = register("threshold", f"({_MASKS}) -> Tensor[]")
_effective_weight = register(
    "effective_weight",
    "(Tensor[] weights, Tensor[]? scores, Tensor[] active, Tensor tau, ScalarType? dtype, "
    "MemoryFormat memory_format, str backend) -> Tensor[]",
)
_straight_through = register(
    "straight_through",
    "(Tensor[] effective_grads, Tensor[] weights, Tensor[] active, str backend) -> Tensor[]",
)
_pack_mask = register("pack_mask", "(Tensor mask, str backend) -> Tensor")
_unpack_mask = register("unpack_mask", "(Tensor packed, SymInt[] shape, str backend) -> Tensor")
_effective_shortly = short_way("effective_weight")

# Kept: a number that becomes a tensor fills one, which a captured graph repeats.
HALF, ZERO = torch.tensor(0.5), torch.tensor(0.0)
# Numbers from which a kernel of ours is faster than PyTorch's select, its threads woken.
WORTH_A_KERNEL = 2**17
MOST_ENTRIES = 2**40
MEMORY_FORMATS = (torch.preserve_format, torch.contiguous_format, torch.channels_last)


def threshold(
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: Scalar = 0.5,
    backend: str | None = None,
) -> list[Tensor]:
    """Return the mask of each layer: (scores >= tau) & active, bool; a NaN score is off.

    Args:
        scores: float32 per layer, or None: the masks are `active` alone.
        active: bool per layer.
        tau: a number, or a 0-d tensor that is read on the device.

    Raises:
        GemkernError: the lists or their tensors do not fit, or no backend can serve.
    """
    return _threshold(*_masks("threshold", scores, active, tau), backend or "")


def effective_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: Scalar = 0.5,
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
        tau: a number, or a 0-d tensor that is read on the device.
        dtype: a float dtype for the result; None for the weight's.
        memory_format: torch.preserve_format, contiguous_format or channels_last, for 4-d results;
            others keep the weight's.

    Raises:
        GemkernError: the lists or their tensors do not fit, or no backend can serve.
    """
    check_layers("effective_weight", weights=weights, active=active, scores=scores)
    for i, (weight, on) in enumerate(zip(weights, active, strict=True)):
        check_mask(f"effective_weight, layer {i}", weight, scores[i] if scores else None, on)
    if dtype is not None and dtype not in FLOATS:
        raise GemkernError(f"effective_weight: dtype is {dtype}; give a float dtype")
    if memory_format not in MEMORY_FORMATS:
        raise GemkernError(
            f"effective_weight: memory_format is {memory_format}; "
            f"give one of {', '.join(map(str, MEMORY_FORMATS))}"
        )
    masks = (
        listed(scores),
        list(active),
        on_device("effective_weight", "tau", tau, (scores or weights)[0]),
    )
    return _effective_weight(list(weights), *masks, dtype, memory_format, backend or "")


def masked_weight(
    weight: Tensor, scores: Tensor | None, active: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return `effective_weight` of one layer at less cost, for PyTorch's own layer to compute with.

    Arguments and gradients are those of `effective_weight`, and without scores there is a second
    derivative; shapes and dtypes are taken on trust.
    """
    if scores is None and weight.numel() < WORTH_A_KERNEL:
        # A node of PyTorch's own costs less than a function in Python.
        effective = torch.where(active, weight, ZERO)
    elif scores is None:
        effective = _Active.apply(weight, active)
    else:
        effective = _StraightThrough.apply(weight, scores, active)
    return effective if dtype is None else effective.to(dtype)


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(active)
        return _selected(weight, None, active)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (active,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.where(active, grad, ZERO), None
        return _selected(grad, None, active), None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, active)
        return _selected(weight, scores, active)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, scores, active = ctx.saved_tensors
        wants_weight, wants_scores, _ = ctx.needs_input_grad
        to_weight = _selected(grad, scores, active) if wants_weight else None
        to_scores = product(grad, weight, active).to(scores.dtype) if wants_scores else None
        return to_weight, to_scores, None


def _selected(values: Tensor, scores: Tensor | None, active: Tensor) -> Tensor:
    """Return `values` where the mask is on and +0.0 elsewhere."""
    if values.numel() < WORTH_A_KERNEL:
        return torch.where(mask_of(scores, active), values, ZERO)
    listed = [values], None if scores is None else [scores], [active]
    return _effective_shortly(*listed, HALF, None, torch.preserve_format, "")[0]


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
        GemkernError: there is no such shape, `packed` is not uint8 [ceil(n / 8)], or no backend can
            serve.
    """
    if not all(0 <= side <= MOST_ENTRIES for side in shape) or math.prod(shape) > MOST_ENTRIES:
        raise GemkernError(
            f"unpack_mask: there is no mask of the shape {tuple(shape)}; give sides of at least 0, "
            f"and {MOST_ENTRIES} entries at most"
        )
    needed = math.ceil(math.prod(shape) / 8)
    if packed.dtype != torch.uint8 or packed.shape != (needed,):
        raise GemkernError(
            f"unpack_mask: packed is {packed.dtype} {tuple(packed.shape)}; "
            f"the shape {tuple(shape)} needs uint8 ({needed},)"
        )
    return _unpack_mask(packed, list(shape), backend or "")


def _masks(
    where: str, scores: Sequence[Tensor] | None, active: Sequence[Tensor], tau: Scalar
) -> tuple[list[Tensor] | None, list[Tensor], Tensor]:
    check_layers(where, active=active, scores=scores)
    for i, layer in enumerate(scores or ()):
        check_scores(f"{where}, layer {i}", layer)
    return listed(scores), list(active), on_device(where, "tau", tau, (scores or active)[0])


def _setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    weights, scores, active, tau, _, _, ctx.backend = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(tau, *weights, *active, *(scores or ()))


@once
def _backward(ctx: Any, grads: Sequence[Tensor]) -> Any:
    tau, *saved = ctx.saved_tensors
    weights, active, scores = (saved[i * ctx.layers :][: ctx.layers] for i in range(3))
    wants_weights, wants_scores, *_ = ctx.needs_input_grad
    to_weights: list[Tensor | None] = [None] * ctx.layers
    for i in _wanted(wants_weights):
        masked = ([scores[i]] if scores else None, [active[i]], tau)
        (to_weights[i],) = _effective_weight(
            [grads[i]], *masked, weights[i].dtype, torch.preserve_format, ctx.backend
        )
    to_scores: list[Tensor | None] | None = None
    if scores:
        to_scores = [None] * ctx.layers
        chosen = _wanted(wants_scores)
        layers = [[tensors[i] for i in chosen] for tensors in (grads, weights, active)]
        products = _straight_through(*layers, ctx.backend) if chosen else []
        for i, product in zip(chosen, products, strict=True):
            to_scores[i] = product.to(scores[i].dtype)
    return to_weights, to_scores, [None] * ctx.layers, None, None, None, None


def _wanted(wants: Any) -> list[int]:
    """Return the layers whose gradient is wanted."""
    return [i for i, wanted in enumerate(wants or ()) if wanted]


torch.library.register_autograd(
    "gemkern::effective_weight", _backward, setup_context=_setup, lib=LIBRARY
)
