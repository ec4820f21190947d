"""Convolution and linear layer by the weights that remain, on batch-last activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.reference.pattern import Pattern, pattern
from gemkern.ops.checks import autocasts, check_conv2d, check_linear, pair
from gemkern.ops.registration import differentiate, register

__all__ = ["Pattern", "pattern", "sparse_conv2d", "sparse_linear"]

PATTERN = "int[] shape, Tensor starts, Tensor positions"
GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups, str backend"


def pattern_at(place: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return what makes one Pattern of its fields, which begin at `place` of the arguments."""
    end = place + len(Pattern._fields)

    def arrange(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        shape, *tensors = inputs[place:end]
        return *inputs[:place], Pattern(tuple(shape), *tensors), *inputs[end:]

    return arrange


_linear = register(
    "sparse_linear",
    f"(Tensor x, Tensor values, {PATTERN}, Tensor? bias, str backend) -> Tensor",
    pattern_at(2),
)
_linear_input_grad = register(
    "sparse_linear_input_grad",
    f"(Tensor grad_y, Tensor values, {PATTERN}, str backend) -> Tensor",
    pattern_at(2),
)
_linear_weight_grad = register(
    "sparse_linear_weight_grad",
    f"(Tensor grad_y, Tensor x, {PATTERN}, str backend) -> Tensor",
    pattern_at(2),
)
_conv2d = register(
    "sparse_conv2d",
    f"(Tensor x, Tensor values, {PATTERN}, Tensor? bias, {GEOMETRY}) -> Tensor",
    pattern_at(2),
)
_conv2d_input_grad = register(
    "sparse_conv2d_input_grad",
    f"(Tensor grad_y, SymInt[] input_size, Tensor values, {PATTERN}, {GEOMETRY}) -> Tensor",
    pattern_at(3),
)
_conv2d_weight_grad = register(
    "sparse_conv2d_weight_grad",
    f"(Tensor grad_y, Tensor x, {PATTERN}, {GEOMETRY}) -> Tensor",
    pattern_at(2),
)


def sparse_linear(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return x @ weight.T + bias for the weight that is `values` where `pattern` says, else 0.

    Args:
        x: [N, Ki]; under autocast any float dtype, else that of the values.
        values: [nnz], the weights that remain, by ascending place.
        pattern: of the weight [Ko, Ki], from `gemkern.ops.pattern`.
        bias: [Ko] or None.
        backend: "gpu", "cpu", "reference" or "auto"; None for GEMKERN_BACKEND, or auto.

    Returns:
        [N, Ko], batch-last (strides (1, N)), in the dtype of the values.

    Raises:
        GemkernError: shapes, dtypes or devices do not fit, or no backend can serve.
    """
    x = checked("sparse_linear", x, values, pattern, bias)
    if x.dim() != 2:
        raise GemkernError(f"sparse_linear: x has shape {tuple(x.shape)}; give (batch, features)")
    check_linear(x, pattern.shape, "sparse_linear")
    return _linear(x, values, *pattern, bias, backend or "")


def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Return the two-dimensional convolution of x with the weights that remain, plus bias.

    Args:
        x: [N, Ci, H, W], fastest batch-last; under autocast any float dtype, else that of values.
        values: [nnz], the weights that remain, by ascending place.
        pattern: of the weight [Co, Ci / groups, kh, kw], from `gemkern.ops.pattern`.
        bias: [Co] or None.
        stride, padding, dilation: an int or a pair, in pixels.
        groups: divides Ci and Co.
        backend: "gpu", "cpu", "reference" or "auto"; None for GEMKERN_BACKEND, or auto.

    Returns:
        [N, Co, H', W'], batch-last (strides (1, H' W' N, W' N, N)), in the dtype of the values.

    Raises:
        GemkernError: shapes, dtypes, devices or the geometry do not fit, or no backend can serve.
    """
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    x = checked("sparse_conv2d", x, values, pattern, bias)
    check_conv2d(x, pattern.shape, stride, padding, dilation, groups, "sparse_conv2d")
    return _conv2d(x, values, *pattern, bias, stride, padding, dilation, groups, backend or "")


def checked(where: str, x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    """Return x in the dtype to compute in, after a look at what is common to both operators."""
    if not values.is_floating_point() or values.shape != pattern.positions.shape:
        raise GemkernError(
            f"{where}: values are {values.dtype} {tuple(values.shape)}; "
            f"give {len(pattern.positions)} floats, one for each place of the pattern"
        )
    for name, tensor in (("x", x), ("pattern", pattern.positions), ("bias", bias)):
        if tensor is not None and tensor.device != values.device:
            raise GemkernError(
                f"{where}: {name} is on {tensor.device} and the values on {values.device}; "
                "move one to the other"
            )
    if bias is not None and bias.shape != pattern.shape[:1]:
        raise GemkernError(
            f"{where}: bias has shape {tuple(bias.shape)}; give ({pattern.shape[0]},), "
            "one number for each output"
        )
    if autocasts(x.device.type):
        return x.to(values.dtype)
    if x.dtype != values.dtype:
        raise GemkernError(
            f"{where}: x is {x.dtype} and the values {values.dtype}; convert one, or use autocast"
        )
    return x


def _linear_setup(ctx: Any, inputs: Any) -> None:
    x, values, ctx.shape, *tensors, _, ctx.backend = inputs
    ctx.save_for_backward(x, values, *tensors)


def _linear_backward(ctx: Any, grad_y: Tensor) -> Any:
    x, values, *tensors = ctx.saved_tensors
    wants_x, wants_values, *_, wants_bias, _ = ctx.needs_input_grad
    where = (ctx.shape, *tensors)
    grad_x = grad_values = grad_bias = None
    if wants_x:
        grad_x = _linear_input_grad(grad_y, values, *where, ctx.backend)
    if wants_values:
        grad_values = _linear_weight_grad(grad_y, x, *where, ctx.backend)
    if wants_bias:
        grad_bias = grad_y.sum(0)
    return grad_x, grad_values, *[None for _ in where], grad_bias, None


def _conv2d_setup(ctx: Any, inputs: Any) -> None:
    x, values, ctx.shape = inputs[:3]
    ctx.geometry = inputs[6:]
    ctx.save_for_backward(x, values, *inputs[3:5])


def _conv2d_backward(ctx: Any, grad_y: Tensor) -> Any:
    x, values, *tensors = ctx.saved_tensors
    wants_x, wants_values = ctx.needs_input_grad[:2]
    where = (ctx.shape, *tensors)
    grad_x = grad_values = grad_bias = None
    if wants_x:
        grad_x = _conv2d_input_grad(grad_y, x.shape, values, *where, *ctx.geometry)
    if wants_values:
        grad_values = _conv2d_weight_grad(grad_y, x, *where, *ctx.geometry)
    if ctx.needs_input_grad[5]:
        grad_bias = grad_y.sum((0, 2, 3))
    nothing = [None for _ in where], [None for _ in ctx.geometry]
    return grad_x, grad_values, *nothing[0], grad_bias, *nothing[1]


differentiate("sparse_linear", _linear_setup, _linear_backward)
differentiate("sparse_conv2d", _conv2d_setup, _conv2d_backward)
