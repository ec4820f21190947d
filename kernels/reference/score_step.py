"""One step of the scores of a whole model, in place.

Rare Gems (NeurIPS 2022), Algorithm 1: a gradient step on the scores, then projection onto [0, 1].
The regulariser l2 * ||p||^2 enters by its gradient, 2 * l2 * p, and not through the loss. Frozen
entries, and everything that an optimiser remembers of them, become 0 for good.

Every operation rounds once, in the dtype of the scores and in the order written; scalars are
rounded to that dtype first. A backend has to match the bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemkern.kernels.reference.threshold import mask_of, select
from torch import Tensor

Scalar = float | Tensor


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
    """SGD with momentum: v = momentum * v + g; p = clamp(p - lr * d), d = v, or g + momentum * v.

    Args:
        scores: float32 per layer (float64 accepted), in [0, 1].
        active: bool, shaped as the scores.
        grads: dL/dscore, or dL/dw_eff where `weights` is given: then g = grad * weight is taken
            here (straight-through).
        buffers: momentum v, zero before the first step.
        weights: per layer, or None.
        effective: None, or tensors that receive the next effective weight in their own dtype.
        lr, l2: floats or 0-d tensors.
    """
    for i, (p, on, v) in enumerate(zip(scores, active, buffers, strict=True)):
        g = _gradient(i, p, grads, weights, l2)
        v.mul_(_scalar(momentum, p)).add_(g)
        d = v * _scalar(momentum, p) + g if nesterov else v
        _move(p, on, d * _scalar(lr, p), [v])
        _write_effective(i, p, on, weights, effective)


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
    """Adam: m = b1 * m + (1 - b1) * g; s = b2 * s + g * g * (1 - b2); p = clamp(p - lr * m' / d).

    m' = m / (1 - b1^step), d = sqrt(s / (1 - b2^step)) + eps; `step` counts from 1. The rest is as
    for `score_step_sgd`; both moments are zero before the first step. Kingma and Ba (2015), Alg. 1.
    The corrections 1 - b^step, of the rounded b, and the root are float64, rounded once at the end.
    """
    for i, (p, on, m, s) in enumerate(zip(scores, active, exp_avgs, exp_avg_sqs, strict=True)):
        b1, b2 = _scalar(beta1, p), _scalar(beta2, p)
        g = _gradient(i, p, grads, weights, l2)
        m.mul_(b1).add_(g * (1 - b1))
        s.mul_(b2).add_(g * g * (1 - b2))
        corrected = m / _correction(b1, step)
        denominator = _root(s / _correction(b2, step)) + _scalar(eps, p)
        _move(p, on, corrected * _scalar(lr, p) / denominator, [m, s])
        _write_effective(i, p, on, weights, effective)


def _scalar(value: Scalar, like: Tensor) -> Tensor:
    """Return `value` as a 0-d tensor of the dtype and device of `like`."""
    # A fill, not a copy: the host does not wait for the device.
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)


def _correction(beta: Tensor, step: Scalar) -> Tensor:
    # Libraries differ in the last bit of a power: in float64 that bit is rounded away.
    wide = beta.double()
    return (1 - wide ** _scalar(step, wide)).to(beta.dtype)


def _root(values: Tensor) -> Tensor:
    # PyTorch's float32 root on a CPU misses the last bit (MKL); rounded from float64 it is right.
    return values.double().sqrt().to(values.dtype)


def _gradient(
    i: int, p: Tensor, grads: Sequence[Tensor], weights: Sequence[Tensor] | None, l2: Scalar
) -> Tensor:
    grad = grads[i].to(p.dtype)
    if weights is not None:
        grad = grad * weights[i].to(p.dtype)
    return grad + 2 * _scalar(l2, p) * p


def _move(p: Tensor, on: Tensor, by: Tensor, memory: Sequence[Tensor]) -> None:
    p.sub_(by).clamp_(0, 1)
    frozen = ~on
    for state in (p, *memory):
        state.masked_fill_(frozen, 0)


def _write_effective(
    i: int,
    p: Tensor,
    on: Tensor,
    weights: Sequence[Tensor] | None,
    effective: Sequence[Tensor] | None,
) -> None:
    if weights is not None and effective is not None:
        effective[i].copy_(select(weights[i], mask_of(p, on)))
