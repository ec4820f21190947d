"""One step of the scores of all layers in one parallel pass, in place.

Named and called as `gemkern.kernels.reference.score_step`, and equal to it bit for bit: every
operation rounds once, none is fused with another. What is not float32 is left to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES
from gemkern.kernels.cpu.machine.memory import flags, floats, number
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.tables import (
    address_of,
    alike,
    in_memory,
    share_of_layer,
    table,
    table_at,
)
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.cpu.threshold import float32, selected
from gemkern.kernels.reference.score_step import Scalar
from gemkern.kernels.reference.threshold import TAU
from numba import prange
from torch import Tensor

# Rows of the table. What is not given is the scores again, and is not read.
SCORES, ACTIVE, GRADS, WEIGHTS, EFFECTIVE, FIRST, SECOND = range(2, 9)


@njit(cache=True)
def moved(p, by, on):
    """Return p - by, clamped to [0, 1]: NaN and -0.0 stay what they are; 0 where it is frozen."""
    zero, one = np.float32(0), np.float32(1)
    p = p - by
    p = zero if p < zero else p
    p = one if p > one else p
    return p if on != 0 else zero


@njit(cache=True)
def gradient(grad, weight, p, double_l2, straight):
    grad = grad * weight if straight else grad
    return grad + double_l2 * p


@njit(cache=True)
def sgd(p, on, grads, weights, v, lr, double_l2, momentum, nesterov, straight):
    for i in range(p.size):
        g = gradient(grads[i], weights[i], p[i], double_l2, straight)
        velocity = v[i] * momentum + g
        d = velocity * momentum + g if nesterov else velocity
        p[i] = moved(p[i], d * lr, on[i])
        v[i] = velocity if on[i] != 0 else np.float32(0)


@njit(cache=True, error_model="numpy")
def adam(
    p, on, grads, weights, m, s, lr, double_l2, b1, b2, correction1, correction2, eps, straight
):
    zero, one = np.float32(0), np.float32(1)
    for i in range(p.size):
        g = gradient(grads[i], weights[i], p[i], double_l2, straight)
        first = m[i] * b1 + g * (one - b1)
        second = s[i] * b2 + g * g * (one - b2)
        denominator = np.float32(math.sqrt(second / correction2)) + eps
        p[i] = moved(p[i], first / correction1 * lr / denominator, on[i])
        m[i] = first if on[i] != 0 else zero
        s[i] = second if on[i] != 0 else zero


@njit(cache=True)
def correction(beta, step):
    """Return 1 - beta^step of the rounded beta, worked out in float64 and rounded once."""
    return np.float32(1 - np.float64(np.float32(beta)) ** number(step))


@njit(cache=True, parallel=True)
def step_sgd(threads, of_layers, layers, straight, written, lr, l2, momentum, nesterov):
    rows = table_at(of_layers, 6, layers)
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for layer in range(layers):
            first, size = share_of_layer(rows, layer, thread, threads)
            p = floats(rows[SCORES, layer] + BYTES * first, size)
            on = flags(rows[ACTIVE, layer] + first, size)
            weights = floats(rows[WEIGHTS, layer] + BYTES * first, size)
            sgd(
                p, on, floats(rows[GRADS, layer] + BYTES * first, size), weights,
                floats(rows[FIRST, layer] + BYTES * first, size),
                np.float32(number(lr)), np.float32(2) * np.float32(number(l2)),
                np.float32(momentum), nesterov, straight,
            )  # fmt: skip
            if written:
                effective = floats(rows[EFFECTIVE, layer] + BYTES * first, size)
                selected(effective, on, p, weights, np.float32(TAU))
        adopt(before)


@njit(cache=True, parallel=True)
def step_adam(threads, of_layers, layers, straight, written, lr, l2, step, beta1, beta2, eps):
    rows = table_at(of_layers, 7, layers)
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for layer in range(layers):
            first, size = share_of_layer(rows, layer, thread, threads)
            p = floats(rows[SCORES, layer] + BYTES * first, size)
            on = flags(rows[ACTIVE, layer] + first, size)
            weights = floats(rows[WEIGHTS, layer] + BYTES * first, size)
            adam(
                p, on, floats(rows[GRADS, layer] + BYTES * first, size), weights,
                floats(rows[FIRST, layer] + BYTES * first, size),
                floats(rows[SECOND, layer] + BYTES * first, size),
                np.float32(number(lr)), np.float32(2) * np.float32(number(l2)), np.float32(beta1),
                np.float32(beta2), correction(beta1, step), correction(beta2, step),
                np.float32(eps), straight,
            )  # fmt: skip
            if written:
                effective = floats(rows[EFFECTIVE, layer] + BYTES * first, size)
                selected(effective, on, p, weights, np.float32(TAU))
        adopt(before)


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
    layers = (scores, active, grads, [buffers], weights, effective)
    if not _served(*layers):
        reference.score_step_sgd(
            scores, active, grads, buffers, weights, effective, lr, l2, momentum, nesterov
        )
        return
    _step(step_sgd, *layers, (lr, l2), float(momentum), nesterov)


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
    layers = (scores, active, grads, [exp_avgs, exp_avg_sqs], weights, effective)
    if not _served(*layers):
        reference.score_step_adam(
            scores, active, grads, exp_avgs, exp_avg_sqs, weights, effective, lr, l2, step, beta1,
            beta2, eps,
        )  # fmt: skip
        return
    _step(step_adam, *layers, (lr, l2, step), beta1, beta2, eps)


def _served(
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    memory: Sequence[Sequence[Tensor]],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
) -> bool:
    given = (scores, grads, *memory, weights, effective)
    return all(tensors is None or float32(tensors) for tensors in given)


def _step(
    kernel: Callable[..., None],
    scores: Sequence[Tensor],
    active: Sequence[Tensor],
    grads: Sequence[Tensor],
    memory: Sequence[Sequence[Tensor]],
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
    scalars: Sequence[Scalar],
    *constants: float,
) -> None:
    """Run `kernel` over all layers; an operand that lies not as its scores is copied, and back."""
    straight = weights is not None
    written = straight and effective is not None
    out = scores if effective is None or not straight else effective
    working = alike(scores, active, grads, weights if straight else scores, out, *memory)
    rows = table(*working)
    held = [in_memory(scalar) for scalar in scalars]
    kernel(
        start_threads(),
        address_of(rows),
        len(scores),
        straight,
        written,
        *[scalar.data_ptr() for scalar in held],
        *constants,
    )
    changed = [(scores, working[0]), *zip(memory, working[5:], strict=True)]
    if written:
        changed.append((out, working[4]))
    for tensors, ours in changed:
        for original, worked_on in zip(tensors, ours, strict=True):
            if worked_on is not original:
                original.copy_(worked_on)
