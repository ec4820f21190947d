"""Edge-popup: the weights whose scores are largest in magnitude, layer by layer.

Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020), section 3: the
backward pass goes straight through the choice of what is kept, and on through the absolute value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.reference.threshold import select
from gemkern.ops.checks import FLOATS, check_layers, check_scores
from gemkern.ops.registration import LIBRARY, once, register

_popup_mask = register("popup_mask", "(Tensor[] scores, Tensor kept, str backend) -> Tensor[]")
_popup_weight = register(
    "popup_weight",
    "(Tensor[] weights, Tensor[] scores, Tensor kept, ScalarType? dtype, str backend) -> Tensor[]",
)


def popup_mask(scores: Sequence[Tensor], kept: Tensor, backend: str | None = None) -> list[Tensor]:
    """Return the mask of each layer, bool: where ``|score|`` is among its `kept` largest.

    Of equal magnitudes the lowest index (row-major) goes first; NaN is larger than every number.

    Args:
        scores: float32 per layer, or float64 for all.
        kept: int64 [layers], from 0 to the size of each layer (unchecked: it is not read).

    Raises:
        GemkernError: the list, its tensors or kept do not fit, or no backend can serve.
    """
    _check("popup_mask", None, scores, kept)
    return _popup_mask(list(scores), kept, backend or "")


def popup_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    kept: Tensor,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> list[Tensor]:
    """Return each layer's weight where its `popup_mask` is on and +0.0 elsewhere, in `dtype`.

    The gradient of a score is that of the effective weight times the weight times the sign of the
    score, kept or not; the gradient of a weight is that of the effective weight where kept, else 0.

    Args:
        weights: any float dtype, per layer.
        scores: float32 per layer, or float64 for all under float64 weights.
        kept: int64 [layers], from 0 to the size of each layer (unchecked: it is not read).
        dtype: a float dtype for the result; None for the weight's.

    Raises:
        GemkernError: the lists, their tensors or kept do not fit, or no backend can serve; in a
            second derivative.
    """
    _check("popup_weight", weights, scores, kept)
    for i, (weight, score) in enumerate(zip(weights, scores, strict=True)):
        if weight.dtype not in FLOATS:
            raise GemkernError(
                f"popup_weight: in layer {i}, weights are {weight.dtype}; give a float dtype"
            )
        check_scores(f"popup_weight, layer {i}", score, weight.dtype)
    if dtype is not None and dtype not in FLOATS:
        raise GemkernError(f"popup_weight: dtype is {dtype}; give a float dtype")
    return _popup_weight(list(weights), list(scores), kept, dtype, backend or "")


def _check(
    where: str, weights: Sequence[Tensor] | None, scores: Sequence[Tensor], kept: Tensor
) -> None:
    check_layers(where, weights=weights, scores=scores)
    for i, score in enumerate(scores):
        check_scores(f"{where}, layer {i}", score)
        if score.dtype != scores[0].dtype:
            raise GemkernError(
                f"{where}: in layer {i}, scores are {score.dtype}, and {scores[0].dtype} in the "
                "first; give one dtype"
            )
    fits = kept.dtype == torch.int64 and kept.shape == (len(scores),)
    if not fits or kept.device != scores[0].device:
        raise GemkernError(
            f"{where}: kept is {kept.dtype} {tuple(kept.shape)} on {kept.device}; give torch.int64 "
            f"({len(scores)},) on {scores[0].device}, one number for each layer"
        )


def _setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    weights, scores, kept, _, ctx.backend = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(kept, *weights, *scores)


@once
def _backward(ctx: Any, grads: Sequence[Tensor]) -> Any:
    kept, *saved = ctx.saved_tensors
    weights, scores = saved[: ctx.layers], saved[ctx.layers :]
    wants_weights, wants_scores, *_ = ctx.needs_input_grad
    masks = _popup_mask(scores, kept, ctx.backend) if any(wants_weights) else scores
    to_weights = [
        select(grad, mask).to(weight.dtype) if wanted else None
        for wanted, grad, weight, mask in zip(wants_weights, grads, weights, masks, strict=True)
    ]
    to_scores = [
        _straight_through(grad, weight, score) if wanted else None
        for wanted, grad, weight, score in zip(wants_scores, grads, weights, scores, strict=True)
    ]
    return to_weights, to_scores, None, None, None


def _straight_through(grad: Tensor, weight: Tensor, score: Tensor) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (grad.to(wide) * weight.to(wide) * score.sign()).to(score.dtype)


torch.library.register_autograd(
    "gemkern::popup_weight", _backward, setup_context=_setup, lib=LIBRARY
)
