"""Convolutions that normalise what they read and measure what they write, and the norm alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.geometry import Geometry, Pair, output_image
from gemkern.kernels.reference.batch_last import is_batch_last
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern
from gemkern.ops.checks import check_conv2d, check_norm
from gemkern.ops.registration import (
    SIGNATURES,
    differentiable,
    once,
    refuse_transforms,
    register,
    short_way,
)
from gemkern.ops.sparse import checked, geometry_of

__all__ = ["Norm", "NormSparse", "norm_sparse_conv2d", "normalise", "sparse_conv2d"]

_convolve = register(
    "norm_sparse_conv2d",
    "(Tensor x, Norm? norm, Tensor values, Pattern pattern, Tensor? bias, Tensor? added, "
    "bool keep, bool moments, Geometry geometry, str backend) -> "
    "(Tensor, Tensor?, Tensor?, Tensor?)",
)
register(
    "norm_sparse_conv2d_backward",
    "(NormSparse grads, Tensor? y, Tensor? mean_y, Tensor? z, Tensor x, Norm? norm, "
    "Tensor values, Pattern pattern, bool has_residual, bool has_added, bool wants_x, "
    "bool wants_values, Geometry geometry, str backend) -> "
    "(Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)",
)
_convolve_shortly = short_way("norm_sparse_conv2d")
_batch_last, _contiguous = short_way("batch_last"), short_way("contiguous")
_convolve_backward = short_way("norm_sparse_conv2d_backward")
_normalise = register("normalise", "(Tensor x, Norm norm, str backend) -> Tensor")
_normalise_backward = register(
    "normalise_backward",
    "(Tensor grad_y, Tensor y, Tensor x, Norm norm, bool has_residual, str backend) -> "
    "(Tensor, Tensor?, Tensor, Tensor, Tensor?, Tensor?)",
)
CONVOLVE, NORMALISE = SIGNATURES["norm_sparse_conv2d"], SIGNATURES["normalise"]


def normalise(x: Tensor, norm: Norm, backend: str | None = None) -> Tensor:
    """Return relu((x - mean) / sqrt(var + eps) * weight + bias + residual), batch-last.

    Args:
        x: [N, C, ...], fastest batch-last.

    Raises:
        GemkernError: shapes or dtypes do not fit, or no backend can serve; in a second derivative.
    """
    check_statistics("normalise", x, norm)
    return _normalise(x, norm, backend or "")


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
    geometry = geometry_of(stride, padding, dilation, groups)
    operands = x, None, values, pattern, bias, None
    return _convolution("sparse_conv2d", *operands, False, False, False, geometry, backend).y


def norm_sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    norm: Norm | None = None,
    added: Tensor | None = None,
    keep: bool = False,
    moments: bool = False,
    skip: bool = False,
    backend: str | None = None,
) -> NormSparse:
    """Return y = conv(z) + bias + added for z = `normalise(x, norm)`, or x without a norm.

    Args:
        x: [N, Ci, H, W], fastest batch-last.
        values, pattern, bias, stride, padding, dilation, groups: as in `sparse_conv2d`.
        added: as y, or None.
        keep: whether z is returned.
        moments: whether mean and variance of y are.
        skip: whether x is, to be used further.

    Raises:
        GemkernError: shapes, dtypes, devices or the geometry do not fit, or no backend can serve;
            in a second derivative.
    """
    geometry = geometry_of(stride, padding, dilation, groups)
    operands = x, norm, values, pattern, bias, added
    return _convolution("norm_sparse_conv2d", *operands, keep, moments, skip, geometry, backend)


def _convolution(
    where: str,
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    keep: bool,
    moments: bool,
    skip: bool,
    geometry: Geometry,
    backend: str | None,
) -> NormSparse:
    """Check the operands of `where`, and convolve."""
    x = checked(where, x, values, pattern, bias)
    check_conv2d(where, x, pattern.shape, *geometry)
    if added is not None:
        image = output_image(x.shape[2:], pattern.shape[2:], *geometry[:3])
        _check_added(where, x, added, pattern.shape[0], image)
    if norm is not None:
        check_statistics(where, x, norm)
    # Of a residual and a ReLU, nothing but the result tells what passed.
    kept = keep or (norm is not None and norm.residual is not None)
    operands = x, norm, values, pattern, bias, added, kept, moments, geometry, backend or ""
    # Compiled code holds the operator alone: what is done with x then adds a pass.
    if torch.compiler.is_compiling():
        y, z, mean_y, var_y = _convolve(*operands)
    elif not torch.is_grad_enabled():
        y, z, mean_y, var_y = _convolve_shortly(*operands)
    else:
        refuse_transforms(where)
        # Where the operator leads, by a shorter way.
        y, z, mean_y, var_y, *through = _with_gradients(*operands, skip=skip)
        x = through[0] if skip else x
    return NormSparse(y, z if keep else None, mean_y, var_y, x if skip else None)


def _check_added(where: str, x: Tensor, added: Tensor, outputs: int, image: Pair) -> None:
    size = (x.shape[0], outputs, *image)
    if (tuple(added.shape), added.dtype) != (size, x.dtype):
        raise GemkernError(
            f"{where}: what is added is {added.dtype} {tuple(added.shape)} and the result "
            f"{x.dtype} {size}; make them alike"
        )
    if added.device != x.device:
        raise GemkernError(
            f"{where}: what is added is on {added.device} and x on {x.device}; move one to the "
            "other"
        )


def check_statistics(where: str, x: Tensor, norm: Norm) -> None:
    """Check that a norm fits x."""
    named = {
        "mean of the norm": norm.mean,
        "var of the norm": norm.var,
        "weight of the norm": norm.weight,
        "bias of the norm": norm.bias,
    }
    check_norm(where, x, norm.residual, named)


class _Convolve(torch.autograd.Function):
    """The operator; if x goes on, it is the last output, and its gradient joins the same pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
        x, residual, *statistics, values, bias, added, norm, pattern, how, skip = inputs
        _, moments, ctx.geometry, ctx.backend = how
        # Laid out here it is for both passes.
        laid = x if x.stride(0) == 1 or is_batch_last(x) else _batch_last(x, ctx.backend)
        ctx.was_contiguous = laid is not x and x.is_contiguous()
        y, z, mean_y, var_y = _convolve_shortly(laid, norm, values, pattern, bias, added, *how)
        ctx.pattern, ctx.size = pattern, y.shape
        ctx.of_norm = None if norm is None else (norm.eps, None, norm.relu)
        ctx.has_residual, ctx.has_added = residual is not None, added is not None
        ctx.set_materialize_grads(False)
        # PyTorch's own convolution and norm save neither result: who forgets what it needs them
        # for may change them.
        ctx.measured = _Unsaved.of(y) if moments else None
        ctx.kept = None if z is None else _Unsaved.of(z)
        ctx.save_for_backward(mean_y, laid, values, *statistics)
        return (y, z, mean_y, var_y, x.view_as(x)) if skip else (y, z, mean_y, var_y)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_y, grad_z, grad_mean, grad_var, *skips = grads
        mean_y, x, values, *statistics = ctx.saved_tensors
        norm = None if ctx.of_norm is None else Norm(*statistics, *ctx.of_norm)
        y = None
        if grad_mean is None and grad_var is None:
            mean_y = None
        else:
            y = ctx.measured.unchanged()
            grad_mean = torch.zeros_like(mean_y) if grad_mean is None else grad_mean
            grad_var = torch.zeros_like(mean_y) if grad_var is None else grad_var
        wants_x, wants_values, wants_bias = (ctx.needs_input_grad[place] for place in (0, 6, 7))
        if grad_y is None and mean_y is None:
            # Nobody uses y: its weights have no gradient, not one of 0.
            wants_values = wants_bias = False
        z = None
        if ctx.kept is not None and (wants_values or (norm is not None and norm.relu)):
            z = ctx.kept.unchanged()
        elif ctx.has_residual:
            z = x
        grad_y = x.new_zeros(ctx.size) if grad_y is None else grad_y
        of_results = NormSparse(grad_y, grad_z, grad_mean, grad_var, skips[0] if skips else None)
        *of_input, grad_values, grad_added = _convolve_backward(
            of_results, y, mean_y, z, x, norm, values, ctx.pattern, ctx.has_residual,
            ctx.has_added, norm is not None or wants_x, wants_values, ctx.geometry, ctx.backend,
        )  # fmt: skip
        grad_x, *of_norm = of_input
        if ctx.was_contiguous and grad_x is not None:
            # As what made x will want it.
            grad_x = _contiguous(grad_x, ctx.backend)
        if ctx.has_added and grad_added is None:
            grad_added = grad_y
        grad_bias = None
        if wants_bias:
            grad_bias = grad_y.sum((0, 2, 3))
            # Deviations from a mean sum to 0: the variance has no share.
            grad_bias = grad_bias if grad_mean is None else grad_bias + grad_mean
        return grad_x, *of_norm, grad_values, grad_bias, grad_added, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise GemkernError("norm_sparse_conv2d has no derivative in forward mode: use backward()")


def _with_gradients(
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    *how: Any,
    skip: bool = False,
) -> Any:
    """Call the operator, given its operands; autograd sees the tensors that may have gradients."""
    statistics, residual = ((None,) * 4, None) if norm is None else (norm[:4], norm.residual)
    return _Convolve.apply(x, residual, *statistics, values, bias, added, norm, pattern, how, skip)


class _Unsaved(NamedTuple):
    """A result that a gradient may need, and how often it had been changed when it was made."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Unsaved:
        return cls(tensor.detach(), tensor._version)

    def unchanged(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a result of norm_sparse_conv2d, which its gradient needs, has been modified by an "
                "inplace operation: give clone() to the operation"
            )
        return self.tensor


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, norm, ctx.backend = NORMALISE.operands(arguments)
        with torch._C._AutoDispatchBelowAutograd():
            y = _normalise(x, norm, ctx.backend)
        *statistics, ctx.eps, residual, ctx.relu = norm
        ctx.has_residual = residual is not None
        # Without a ReLU the gradient does not depend on the result.
        ctx.save_for_backward(y if ctx.relu else None, x, *statistics)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        y, x, *statistics = ctx.saved_tensors
        norm = Norm(*statistics, ctx.eps, None, ctx.relu)
        y = x if y is None else y
        grad_x, grad_residual, *of_norm = _normalise_backward(
            grad_y, y, x, norm, ctx.has_residual, ctx.backend
        )
        return NORMALISE.gradients((grad_x, (*of_norm, None, grad_residual, None), None))


differentiable(
    "norm_sparse_conv2d", lambda *arguments: _with_gradients(*CONVOLVE.operands(arguments))
)
differentiable("normalise", _Normalise.apply)
