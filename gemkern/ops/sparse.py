"""A linear layer by the weights that remain, and what a convolution by them shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference import pattern as patterns
from gemkern.kernels.reference.pattern import Pattern
from gemkern.ops.checks import FLOATS, autocasts, check_linear, pair
from gemkern.ops.patterns import check_pattern
from gemkern.ops.registration import SIGNATURES, differentiate, register, short_way

__all__ = ["Pattern", "pattern", "sparse_linear"]

register(
    "sparse_linear",
    "(Tensor x, Tensor values, Pattern pattern, Tensor? bias, str backend) -> Tensor",
)
register(
    "sparse_linear_backward",
    "(Tensor grad_y, Tensor x, Tensor values, Pattern pattern, bool wants_x, bool wants_values, "
    "str backend) -> (Tensor?, Tensor?)",
)
LINEAR = SIGNATURES["sparse_linear"]
_linear_gradients = short_way("sparse_linear_backward")


def pattern(active: Tensor) -> Pattern:
    """Return where `active` (bool, of a weight's shape) is on. Its size is read on the host.

    Raises:
        GemkernError: it is no bool tensor of two dimensions or more, or holds no numbers.
    """
    if active.dtype != torch.bool or active.dim() < 2 or active.device.type == "meta":
        raise GemkernError(
            f"pattern: active is {active.dtype} {tuple(active.shape)} on {active.device}; give a "
            "bool tensor of a weight's shape, (outputs, inputs, ...)"
        )
    return patterns.pattern(active)


def sparse_linear(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return x @ weight.T + bias for the weight that is `values` where `pattern` says, else 0.

    Args:
        x: [N, Ki], contiguous or batch-last; under autocast any float dtype, else that of the
            values.
        values: [nnz], the weights that remain, by ascending place.
        pattern: of the weight [Ko, Ki], from `gemkern.ops.pattern`.
        bias: [Ko] or None.
        backend: "gpu", "cpu", "reference" or "auto"; None for GEMKERN_BACKEND, or auto.

    Returns:
        [N, Ko], contiguous, in the dtype of the values.

    Raises:
        GemkernError: shapes, dtypes or devices do not fit, or no backend can serve.
    """
    x = checked("sparse_linear", x, values, pattern, bias)
    if x.dim() != 2:
        raise GemkernError(f"sparse_linear: x has shape {tuple(x.shape)}; give (batch, features)")
    check_linear(x, pattern.shape, "sparse_linear")
    return _linear(x, values, pattern, bias, backend or "")


def geometry_of(
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    """Return the geometry of what PyTorch calls so."""
    return Geometry(tuple(pair(stride)), tuple(pair(padding)), tuple(pair(dilation)), groups)


def checked(where: str, x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return x in the dtype to compute in, after a look at what is common to both operators."""
    check_pattern(where, pattern)
    if values.dtype not in FLOATS or values.shape != pattern.positions.shape:
        raise GemkernError(
            f"{where}: values are {values.dtype} {tuple(values.shape)}; "
            f"give {len(pattern.positions)} floats, one for each place of the pattern"
        )
    device = values.device
    for name, tensor in (("x", x), ("pattern", pattern.positions), ("bias", bias)):
        if tensor is not None and tensor.device != device:
            raise GemkernError(
                f"{where}: {name} is on {tensor.device} and the values on {device}; "
                "move one to the other"
            )
    if bias is not None and bias.shape != pattern.shape[:1]:
        raise GemkernError(
            f"{where}: bias has shape {tuple(bias.shape)}; give ({pattern.shape[0]},), "
            "one number for each output"
        )
    if bias is not None and bias.dtype != values.dtype:
        raise GemkernError(
            f"{where}: bias is {bias.dtype} and the values {values.dtype}; convert one"
        )
    if autocasts(device.type):
        return x.to(values.dtype)
    if x.dtype != values.dtype:
        raise GemkernError(
            f"{where}: x is {x.dtype} and the values {values.dtype}; convert one, or use autocast"
        )
    return x


def _linear_setup(ctx: Any, operands: Any) -> None:
    x, values, (ctx.shape, *places), _, ctx.backend = operands
    ctx.save_for_backward(x, values, *places)


def _linear_backward(ctx: Any, grad_y: Tensor) -> Any:
    x, values, *places = ctx.saved_tensors
    wants_x, wants_values, _, wants_bias, _ = LINEAR.parts(ctx.needs_input_grad)
    where = Pattern(ctx.shape, *places)
    grad_x = grad_values = None
    if wants_x or wants_values:
        grad_x, grad_values = _linear_gradients(
            grad_y, x, values, where, wants_x, wants_values, ctx.backend
        )
    grad_bias = grad_y.sum(0) if wants_bias else None
    return grad_x, grad_values, None, grad_bias, None


_linear = differentiate("sparse_linear", _linear_setup, _linear_backward)
