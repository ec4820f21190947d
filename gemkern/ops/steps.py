"""One step of the scores of a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.numbers import shown
from gemkern.ops.checks import FLOATS, check_changed, check_layers, dtypes
from gemkern.ops.operands import listed
from gemkern.ops.registration import register_in_place
from gemkern.ops.scalars import Scalar, on_device

_REST = "Tensor[]? weights, Tensor(z!)[]? effective, Tensor lr, Tensor l2"

_sgd = register_in_place(
    "score_step_sgd",
    f"(Tensor(a!)[] scores, Tensor[] active, Tensor[] grads, Tensor(b!)[] buffers, {_REST}, "
    "float momentum, bool nesterov, str backend) -> ()",
    mutates=("scores", "buffers", "effective"),
)
_adam = register_in_place(
    "score_step_adam",
    "(Tensor(a!)[] scores, Tensor[] active, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    f"Tensor(c!)[] exp_avg_sqs, {_REST}, Tensor step, float beta1, float beta2, float eps, "
    "str backend) -> ()",
    mutates=("scores", "exp_avgs", "exp_avg_sqs", "effective"),
)


def score_step_sgd(
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    effective: Sequence[Tensor] | None = None,
    *,
    lr: Scalar,
    l2: Scalar = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    backend: str | None = None,
) -> None:
    """Move scores by SGD with momentum, clamp them to [0, 1], hold frozen ones at 0; in place.

    Rare Gems (NeurIPS 2022), Algorithm 1; the arithmetic is that of
    `gemkern.kernels.reference.score_step_sgd`, bit for bit on every backend.

    Args:
        scores: float32 per layer (float64 accepted).
        active: bool per layer.
        grads: dL/dscore per layer, or dL/dw_eff where `weights` is given: the straight-through
            product with the weight is then taken here.
        buffers: momentum per layer, zero before the first step.
        weights: per layer, or None.
        effective: None, or tensors that receive the next effective weights; needs `weights`.
        lr, l2: numbers, or 0-d tensors that are read on the device.

    Raises:
        GemkernError: lists or tensors do not fit, or no backend can serve.
    """
    _check("score_step_sgd", scores, active, grads, weights, effective, buffers=buffers)
    _check_numbers("score_step_sgd", scores[0], momentum=momentum)
    _sgd(
        list(scores),
        list(active),
        list(grads),
        list(buffers),
        listed(weights),
        listed(effective),
        on_device("score_step_sgd", "lr", lr, scores[0]),
        on_device("score_step_sgd", "l2", l2, scores[0]),
        momentum,
        nesterov,
        backend or "",
    )


def score_step_adam(
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    effective: Sequence[Tensor] | None = None,
    *,
    lr: Scalar,
    l2: Scalar = 0.0,
    step: Scalar,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    backend: str | None = None,
) -> None:
    """Move scores by Adam, clamp them to [0, 1], hold frozen ones at 0; in place.

    As `score_step_sgd`, with first and second moments, zero before the first step, and the number
    of this step, counted from 1 (Kingma and Ba, 2015, Algorithm 1).

    Raises:
        GemkernError: lists or tensors do not fit, or no backend can serve.
    """
    _check(
        "score_step_adam",
        scores,
        active,
        grads,
        weights,
        effective,
        exp_avgs=exp_avgs,
        exp_avg_sqs=exp_avg_sqs,
    )
    _check_numbers("score_step_adam", scores[0], beta1=beta1, beta2=beta2, eps=eps)
    _adam(
        list(scores),
        list(active),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        listed(weights),
        listed(effective),
        on_device("score_step_adam", "lr", lr, scores[0]),
        on_device("score_step_adam", "l2", l2, scores[0]),
        on_device("score_step_adam", "step", step, scores[0]),
        beta1,
        beta2,
        eps,
        backend or "",
    )


def _check_numbers(where: str, scores: Tensor, **numbers: float) -> None:
    for name, value in numbers.items():
        if not abs(value) <= torch.finfo(scores.dtype).max:
            said = shown(value) if isinstance(value, int) else value
            raise GemkernError(
                f"{where}: {name} is {said}; give a number that {scores.dtype} can hold"
            )


def _check(
    where: str,
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
    **memory: Sequence[Tensor],
) -> None:
    if effective is not None and weights is None:
        raise GemkernError(f"{where}: effective weights are wanted without weights; give both")
    check_layers(
        where,
        scores=scores,
        active=active,
        grads=grads,
        weights=weights,
        effective=effective,
        **memory,
    )
    kept = scores[0].dtype
    for dtype in dtypes(chain(scores, *memory.values())):
        if dtype not in (torch.float32, torch.float64) or dtype != kept:
            raise GemkernError(
                f"{where}: scores and what is remembered of them are {dtype} and {kept}; "
                "keep all in float32"
            )
    for dtype in dtypes(chain(grads, weights or (), effective or ())):
        if dtype not in FLOATS:
            raise GemkernError(f"{where}: a gradient or a weight is {dtype}; give float dtypes")
    for name, tensors in {"scores": scores, **memory, "effective": effective or ()}.items():
        for i, tensor in enumerate(tensors):
            check_changed(f"{where}, layer {i}", name, tensor)
