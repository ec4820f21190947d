"""Masked linear layer and convolution, with straight-through gradients.

Rare Gems (NeurIPS 2022), section 3: the effective weight is the weight where its score is at least
0.5 and it is active, 0 elsewhere; the derivative of the rounding counts as 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gemkern.ops.checks import check_conv2d, check_layer, check_linear, compute_dtype, pair
from gemkern.ops.registration import differentiate, register

_MASKED = "Tensor weight, Tensor? scores, Tensor active"
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups, str backend"

register("masked_linear", f"(Tensor x, {_MASKED}, Tensor? bias, str backend) -> Tensor")
_linear_input_grad = register(
    "masked_linear_input_grad", f"(Tensor grad_y, {_MASKED}, str backend) -> Tensor"
)
_linear_weight_grad = register(
    "masked_linear_weight_grad", f"(Tensor grad_y, Tensor x, {_MASKED}, str backend) -> Tensor"
)
_linear_score_grad = register(
    "masked_linear_score_grad",
    "(Tensor grad_y, Tensor x, Tensor weight, Tensor active, str backend) -> Tensor",
)
register("masked_conv2d", f"(Tensor x, {_MASKED}, Tensor? bias, {_GEOMETRY}) -> Tensor")
_conv2d_input_grad = register(
    "masked_conv2d_input_grad",
    f"(Tensor grad_y, SymInt[] input_size, {_MASKED}, {_GEOMETRY}) -> Tensor",
)
_conv2d_weight_grad = register(
    "masked_conv2d_weight_grad", f"(Tensor grad_y, Tensor x, {_MASKED}, {_GEOMETRY}) -> Tensor"
)
_conv2d_score_grad = register(
    "masked_conv2d_score_grad",
    f"(Tensor grad_y, Tensor x, Tensor weight, Tensor active, {_GEOMETRY}) -> Tensor",
)


def masked_linear(
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return x @ effective_weight.T + bias.

    Under autocast, x, bias and the effective weight take the autocast dtype; scores never do.

    Args:
        x: [..., Ki], of the weight's dtype unless autocast is on.
        weight: [Ko, Ki]; its gradient is that of the effective weight where the mask is on, else 0.
        scores: float32 [Ko, Ki], whose gradient is that of the effective weight times the weight
            where active, else 0; or None: the mask is `active` alone.
        active: bool [Ko, Ki].
        bias: [Ko] or None.
        backend: "gpu", "cpu", "reference" or "auto"; None for GEMKERN_BACKEND, or auto.

    Returns:
        [..., Ko] in the dtype of x, or the autocast dtype.

    Raises:
        GemkernError: shapes, dtypes or devices do not fit, or no backend can serve; in a second
            derivative.
    """
    check_layer("masked_linear", x, weight, scores, active, bias)
    check_linear(x, weight.shape)
    dtype = compute_dtype("masked_linear", x, weight)
    bias = None if bias is None else bias.to(dtype)
    return _linear(x.to(dtype), weight, scores, active, bias, backend or "")


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Return the two-dimensional convolution of x with the effective weight, plus bias.

    Under autocast, x, bias and the effective weight take the autocast dtype; scores never do.

    Args:
        x: [N, Ci, H, W], of the weight's dtype unless autocast is on.
        weight: [Co, Ci / groups, kh, kw]; gradient as in `masked_linear`.
        scores: float32, shaped as the weight, or None; gradient as in `masked_linear`.
        active: bool, shaped as the weight.
        bias: [Co] or None.
        stride, padding, dilation: an int or a pair, in pixels.
        groups: divides Ci and Co.
        backend: "gpu", "cpu", "reference" or "auto"; None for GEMKERN_BACKEND, or auto.

    Returns:
        [N, Co, H', W'] in the dtype of x, or the autocast dtype.

    Raises:
        GemkernError: shapes, dtypes, devices or the geometry do not fit, or no backend can serve;
            in a second derivative.
    """
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    check_layer("masked_conv2d", x, weight, scores, active, bias)
    check_conv2d("masked_conv2d", x, weight.shape, stride, padding, dilation, groups)
    dtype = compute_dtype("masked_conv2d", x, weight)
    bias = None if bias is None else bias.to(dtype)
    geometry = (stride, padding, dilation, groups, backend or "")
    return _conv2d(x.to(dtype), weight, scores, active, bias, *geometry)


def _linear_setup(ctx: Any, inputs: Any) -> None:
    x, weight, scores, active, _, ctx.backend = inputs
    ctx.save_for_backward(x, weight, scores, active)


def _linear_backward(ctx: Any, grad_y: Tensor) -> Any:
    x, weight, scores, active = ctx.saved_tensors
    wants_x, wants_weight, wants_scores, _, wants_bias, _ = ctx.needs_input_grad
    masked = (weight, scores, active)
    grad_x = grad_weight = grad_scores = grad_bias = None
    if wants_x:
        grad_x = _linear_input_grad(grad_y, *masked, ctx.backend)
    if wants_weight:
        grad_weight = _linear_weight_grad(grad_y, x, *masked, ctx.backend)
    if wants_scores:
        grad_scores = _linear_score_grad(grad_y, x, weight, active, ctx.backend).to(scores.dtype)
    if wants_bias:
        grad_bias = grad_y.flatten(0, -2).sum(0) if grad_y.dim() > 1 else grad_y
    return grad_x, grad_weight, grad_scores, None, grad_bias, None


def _conv2d_setup(ctx: Any, inputs: Any) -> None:
    x, weight, scores, active, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, scores, active)


def _conv2d_backward(ctx: Any, grad_y: Tensor) -> Any:
    x, weight, scores, active = ctx.saved_tensors
    wants_x, wants_weight, wants_scores, _, wants_bias, *rest = ctx.needs_input_grad
    masked = (weight, scores, active)
    grad_x = grad_weight = grad_scores = grad_bias = None
    if wants_x:
        grad_x = _conv2d_input_grad(grad_y, x.shape, *masked, *ctx.geometry)
    if wants_weight:
        grad_weight = _conv2d_weight_grad(grad_y, x, *masked, *ctx.geometry)
    if wants_scores:
        grad_scores = _conv2d_score_grad(grad_y, x, weight, active, *ctx.geometry)
        grad_scores = grad_scores.to(scores.dtype)
    if wants_bias:
        grad_bias = grad_y.sum((0, 2, 3))
    return grad_x, grad_weight, grad_scores, None, grad_bias, *[None for _ in rest]


_linear = differentiate("masked_linear", _linear_setup, _linear_backward)
_conv2d = differentiate("masked_conv2d", _conv2d_setup, _conv2d_backward)
