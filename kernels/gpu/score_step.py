"""One step of the scores of a whole model, in place, in one launch.

Named and called as `gemkern.kernels.reference.score_step`, and equal to it bit for bit in float32:
no product is fused with a sum, and quotients and roots are rounded to nearest. (In float64 the
powers of Adam may differ in the last bit.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import triton
import triton.language as tl
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import (
    BLOCK,
    THREADS,
    WARPS,
    alike,
    element,
    load_part,
    locate,
    operand,
    store_part,
    table,
)
from gemkern.kernels.gpu.threshold import narrow
from gemkern.kernels.gpu.variants import Variant
from gemkern.kernels.kept import number
from gemkern.kernels.layouts import dense, laid_out_alike, ordered_as
from torch import Tensor

Scalar = float | Tensor
ROUNDING = {"enable_fp_fusion": False}
# Where a score is rounded up: `gemkern.kernels.gpu.threshold.TAU`, as kernels read it.
TAU = tl.constexpr(0.5)


@triton.jit
def quotient(dividend, divisor):
    """Return dividend / divisor rounded to nearest, in the dtype of both."""
    return tl.div_rn(dividend, divisor) if dividend.dtype == tl.float32 else dividend / divisor


@triton.jit
def root(values):
    """Return the square root rounded to nearest."""
    return tl.sqrt_rn(values) if values.dtype == tl.float32 else tl.sqrt(values)


@triton.jit
def correction(beta, step):
    """Return 1 - beta^step: the power in float64, rounded once to the dtype of beta."""
    power = tl.exp(step.to(tl.float64) * tl.log(beta.to(tl.float64)))
    return (1.0 - power).to(beta.dtype)


@triton.jit
def weights_part(weights_ptr, scores, offsets, size, STRAIGHT: tl.constexpr, WHOLE: tl.constexpr):
    """Return the weights of a part; without STRAIGHT nothing reads them, and scores stand there."""
    return load_part(weights_ptr, offsets, size, WHOLE) if STRAIGHT else scores


@triton.jit
def gradient_part(scores, grads, weights, l2, STRAIGHT: tl.constexpr):
    """Return dL/dscore of a part with its L2 term; STRAIGHT takes the product with the weight."""
    grads = grads.to(scores.dtype)
    if STRAIGHT:
        grads = grads * weights.to(scores.dtype)
    return grads + 2 * l2 * scores


@triton.jit
def move_part(
    scores, by, active, weights, scores_ptr, effective_ptr, offsets, size,
    WRITTEN: tl.constexpr, OUT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Move scores, clamp them, clear the frozen; where WRITTEN, write the effective weight."""
    moved = scores - by
    # Comparisons, so that NaN stays NaN.
    moved = tl.where(moved < 0, 0, tl.where(moved > 1, 1, moved))
    moved = tl.where(active, moved, 0)
    store_part(scores_ptr, offsets, moved, size, WHOLE)
    if WRITTEN:
        mask = active & (moved >= TAU)
        effective = narrow(tl.where(mask, weights, 0), OUT)
        store_part(effective_ptr, offsets, effective, size, WHOLE)


@triton.jit
def sgd_part(
    scores_ptr, active_ptr, grads_ptr, buffers_ptr, weights_ptr, effective_ptr, lr, l2,
    offsets, size,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, STRAIGHT: tl.constexpr,
    WRITTEN: tl.constexpr, OUT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    scores = load_part(scores_ptr, offsets, size, WHOLE)
    active = load_part(active_ptr, offsets, size, WHOLE) != 0
    grads = load_part(grads_ptr, offsets, size, WHOLE)
    weights = weights_part(weights_ptr, scores, offsets, size, STRAIGHT, WHOLE)
    grads = gradient_part(scores, grads, weights, l2, STRAIGHT)
    momentum = tl.full((), MOMENTUM, lr.dtype)
    buffers = load_part(buffers_ptr, offsets, size, WHOLE) * momentum + grads
    direction = buffers
    if NESTEROV:
        direction = buffers * momentum + grads
    store_part(buffers_ptr, offsets, tl.where(active, buffers, 0), size, WHOLE)
    move_part(
        scores, direction * lr, active, weights, scores_ptr, effective_ptr, offsets, size,
        WRITTEN, OUT, WHOLE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["LAYERS"])
def score_step_sgd_kernel(
    plan_ptr, addresses_ptr, lr_ptr, l2_ptr, LAYERS,
    SCORE: tl.constexpr, GRAD: tl.constexpr, WEIGHT: tl.constexpr, OUT: tl.constexpr,
    STRAIGHT: tl.constexpr, WRITTEN: tl.constexpr,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    layer, start, size = locate(plan_ptr, LAYERS, BLOCK)
    scores_ptr = operand(addresses_ptr, 0, layer, LAYERS, SCORE, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    buffers_ptr = operand(addresses_ptr, 2, layer, LAYERS, SCORE, ALIGNED)
    grads_ptr = operand(addresses_ptr, 3, layer, LAYERS, GRAD, ALIGNED)
    weights_ptr = operand(addresses_ptr, 4, layer, LAYERS, WEIGHT, ALIGNED)
    effective_ptr = operand(addresses_ptr, 5, layer, LAYERS, OUT, ALIGNED)
    lr = tl.load(lr_ptr).to(SCORE)
    l2 = tl.load(l2_ptr).to(SCORE)
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= size:
        sgd_part(
            scores_ptr, active_ptr, grads_ptr, buffers_ptr, weights_ptr, effective_ptr, lr, l2,
            offsets, size, MOMENTUM, NESTEROV, STRAIGHT, WRITTEN, OUT, True,
        )  # fmt: skip
    else:
        sgd_part(
            scores_ptr, active_ptr, grads_ptr, buffers_ptr, weights_ptr, effective_ptr, lr, l2,
            offsets, size, MOMENTUM, NESTEROV, STRAIGHT, WRITTEN, OUT, False,
        )  # fmt: skip


@triton.jit
def adam_part(
    scores_ptr, active_ptr, grads_ptr, exp_avgs_ptr, exp_avg_sqs_ptr, weights_ptr, effective_ptr,
    lr, l2, step, offsets, size,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, STRAIGHT: tl.constexpr,
    WRITTEN: tl.constexpr, OUT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    beta1 = tl.full((), BETA1, lr.dtype)
    beta2 = tl.full((), BETA2, lr.dtype)
    scores = load_part(scores_ptr, offsets, size, WHOLE)
    active = load_part(active_ptr, offsets, size, WHOLE) != 0
    grads = load_part(grads_ptr, offsets, size, WHOLE)
    weights = weights_part(weights_ptr, scores, offsets, size, STRAIGHT, WHOLE)
    grads = gradient_part(scores, grads, weights, l2, STRAIGHT)
    exp_avgs = load_part(exp_avgs_ptr, offsets, size, WHOLE) * beta1 + grads * (1 - beta1)
    squares = grads * grads * (1 - beta2)
    exp_avg_sqs = load_part(exp_avg_sqs_ptr, offsets, size, WHOLE) * beta2 + squares
    corrected = quotient(exp_avgs, tl.broadcast_to(correction(beta1, step), exp_avgs.shape))
    spread = quotient(exp_avg_sqs, tl.broadcast_to(correction(beta2, step), exp_avgs.shape))
    by = quotient(corrected * lr, root(spread) + tl.full((), EPS, lr.dtype))
    store_part(exp_avgs_ptr, offsets, tl.where(active, exp_avgs, 0), size, WHOLE)
    store_part(exp_avg_sqs_ptr, offsets, tl.where(active, exp_avg_sqs, 0), size, WHOLE)
    move_part(
        scores, by, active, weights, scores_ptr, effective_ptr, offsets, size,
        WRITTEN, OUT, WHOLE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["LAYERS"])
def score_step_adam_kernel(
    plan_ptr, addresses_ptr, lr_ptr, l2_ptr, step_ptr, LAYERS,
    SCORE: tl.constexpr, GRAD: tl.constexpr, WEIGHT: tl.constexpr, OUT: tl.constexpr,
    STRAIGHT: tl.constexpr, WRITTEN: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    layer, start, size = locate(plan_ptr, LAYERS, BLOCK)
    scores_ptr = operand(addresses_ptr, 0, layer, LAYERS, SCORE, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    exp_avgs_ptr = operand(addresses_ptr, 2, layer, LAYERS, SCORE, ALIGNED)
    exp_avg_sqs_ptr = operand(addresses_ptr, 3, layer, LAYERS, SCORE, ALIGNED)
    grads_ptr = operand(addresses_ptr, 4, layer, LAYERS, GRAD, ALIGNED)
    weights_ptr = operand(addresses_ptr, 5, layer, LAYERS, WEIGHT, ALIGNED)
    effective_ptr = operand(addresses_ptr, 6, layer, LAYERS, OUT, ALIGNED)
    lr = tl.load(lr_ptr).to(SCORE)
    l2 = tl.load(l2_ptr).to(SCORE)
    step = tl.load(step_ptr)
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= size:
        adam_part(
            scores_ptr, active_ptr, grads_ptr, exp_avgs_ptr, exp_avg_sqs_ptr, weights_ptr,
            effective_ptr, lr, l2, step, offsets, size, BETA1, BETA2, EPS, STRAIGHT, WRITTEN, OUT,
            True,
        )  # fmt: skip
    else:
        adam_part(
            scores_ptr, active_ptr, grads_ptr, exp_avgs_ptr, exp_avg_sqs_ptr, weights_ptr,
            effective_ptr, lr, l2, step, offsets, size, BETA1, BETA2, EPS, STRAIGHT, WRITTEN, OUT,
            False,
        )  # fmt: skip


def score_step_sgd(
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
    lr: Scalar,
    l2: Scalar,
    momentum: float,
    nesterov: bool,
) -> None:
    _launch(
        score_step_sgd_kernel,
        (scores, active, buffers),
        grads,
        weights,
        effective,
        (lr, l2),
        MOMENTUM=momentum,
        NESTEROV=nesterov,
    )


def score_step_adam(
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
    lr: Scalar,
    l2: Scalar,
    step: Scalar,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    _launch(
        score_step_adam_kernel,
        (scores, active, exp_avgs, exp_avg_sqs),
        grads,
        weights,
        effective,
        (lr, l2, step),
        BETA1=beta1,
        BETA2=beta2,
        EPS=eps,
    )


def _launch(
    kernel: triton.JITFunction,
    state: Sequence[Sequence[Tensor]],
    grads: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
    scalars: Sequence[Scalar],
    **constants: Any,
) -> None:
    """Launch `kernel` over all layers; `state` is scores, active, and what is remembered of them.

    An operand that does not lie as its scores do is worked on as a copy.
    """
    scores = state[0]
    straight = weights is not None
    written = straight and effective is not None
    # What is not read stands in the table as scores.
    given = [*state, grads, weights or scores, (written and effective) or scores]
    working = given if laid_out_alike(*given) else _ordered(given)
    device = scores[0].device
    numbers = [number(scalar, scores[0].dtype, device) for scalar in scalars]
    for layers in alike(working[0], *working[-3:]):
        rows = table(*(layers(tensors) for tensors in working))
        launch(
            kernel,
            (rows.programs,),
            device,
            rows.plan,
            rows.addresses,
            *numbers,
            rows.layers,
            SCORE=element(rows.dtypes[0]),
            GRAD=element(rows.dtypes[-3]),
            WEIGHT=element(rows.dtypes[-2]),
            OUT=element(rows.dtypes[-1]),
            STRAIGHT=straight,
            WRITTEN=written,
            ALIGNED=rows.aligned,
            BLOCK=BLOCK,
            num_warps=WARPS,
            **ROUNDING,
            **constants,
        )
    if working is given:
        return
    # The stand-ins are copies of scores as they were.
    changed = [*range(len(state)), *([len(given) - 1] if written else [])]
    for tensors, ours in ((given[i], working[i]) for i in changed):
        for original, worked_on in zip(tensors, ours, strict=True):
            if worked_on is not original:
                original.copy_(worked_on)


def _ordered(operands: Sequence[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
    """Return all operands in the memory order of dense scores, which are the first of them."""
    like = [dense(score) for score in operands[0]]
    return [
        [ordered_as(one, layer) for one, layer in zip(tensors, like, strict=True)]
        for tensors in operands
    ]


def variants() -> Iterator[Variant]:
    """Yield both kernels with the constants of a float32 model, its gradients of any dtype."""
    arguments = {"plan_ptr": "*i64", "addresses_ptr": "*i64", "LAYERS": "i32"}
    sgd = {"MOMENTUM": 0.9}
    adam = {"BETA1": 0.9, "BETA2": 0.999, "EPS": 1e-8}
    methods = (
        (score_step_sgd_kernel, ("lr_ptr", "l2_ptr"), {**sgd, "NESTEROV": False}),
        (score_step_sgd_kernel, ("lr_ptr", "l2_ptr"), {**sgd, "NESTEROV": True}),
        (score_step_adam_kernel, ("lr_ptr", "l2_ptr", "step_ptr"), adam),
    )
    dtypes = (tl.float32, tl.float16, tl.bfloat16)
    # What is not written counts as scores.
    ends = [(False, False, tl.float32), (True, False, tl.float32)]
    ends += [(True, True, out) for out in dtypes]
    for (kernel, numbers, constants), grad, (straight, written, out), aligned in itertools.product(
        methods, dtypes, ends, (True, False)
    ):
        yield Variant(
            kernel,
            {**arguments, **dict.fromkeys(numbers, "*fp32")},
            {
                "SCORE": tl.float32,
                "GRAD": grad,
                "WEIGHT": tl.float32,
                "OUT": out,
                "STRAIGHT": straight,
                "WRITTEN": written,
                **constants,
                "ALIGNED": aligned,
                "BLOCK": BLOCK,
            },
            "elementwise" if aligned else "other",
            THREADS,
            options=ROUNDING,
        )
