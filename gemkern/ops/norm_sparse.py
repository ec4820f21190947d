"""Convolutions that normalise what they read and measure what they write, and the norm alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.kernels.geometry import Pair, output_image
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.pattern import Pattern
from gemkern.ops.checks import check_conv2d, check_norm, pair
from gemkern.ops.registration import differentiable, once, register, short_way
from gemkern.ops.sparse import GEOMETRY, PATTERN, checked, pattern_at

__all__ = ["Norm", "NormSparse", "norm_sparse_conv2d", "normalise"]

_convolve = register(
    "norm_sparse_conv2d",
    "(Tensor x, Tensor? residual, Tensor? mean, Tensor? var, Tensor? norm_weight, "
    f"Tensor? norm_bias, Tensor values, {PATTERN}, Tensor? bias, Tensor? added, float eps, "
    f"bool relu, bool keep, bool moments, {GEOMETRY}) -> (Tensor, Tensor?, Tensor?, Tensor?)",
    pattern_at(7),
)
register(
    "norm_sparse_conv2d_backward",
    "(Tensor grad_y, Tensor? grad_z, Tensor? grad_mean_y, Tensor? grad_var_y, Tensor? grad_skip, "
    "Tensor? y, Tensor? mean_y, Tensor? z, Tensor x, Tensor? mean, Tensor? var, "
    f"Tensor? norm_weight, Tensor? norm_bias, Tensor values, {PATTERN}, float eps, bool relu, "
    f"bool has_residual, bool has_added, bool wants_x, bool wants_values, {GEOMETRY}) -> "
    "(Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)",
    pattern_at(14),
)
_convolve_shortly = short_way("norm_sparse_conv2d", pattern_at(7))
_convolve_backward = short_way("norm_sparse_conv2d_backward", pattern_at(14))
_normalise = register(
    "normalise",
    "(Tensor x, Tensor? residual, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    "float eps, bool relu, str backend) -> Tensor",
)
_normalise_backward = register(
    "normalise_backward",
    "(Tensor grad_y, Tensor y, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    "float eps, bool relu, bool has_residual, str backend) -> "
    "(Tensor, Tensor?, Tensor, Tensor, Tensor?, Tensor?)",
)


class Norm(NamedTuple):
    """Batch norm by known statistics, a residual and ReLU.

    Attributes:
        mean, var: [C], of a batch, or running.
        weight, bias: [C], or None for 1 and 0.
        eps: added to the variance.
        residual: shaped as what is normalised, added after it; or None.
        relu: whether negative results become 0.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    residual: Tensor | None = None
    relu: bool = True


class NormSparse(NamedTuple):
    """What `norm_sparse_conv2d` returns; None where it was not asked for.

    Attributes:
        y: [N, Co, H', W'], batch-last.
        z: as x, what was convolved.
        mean, var: [Co], the moments of y; the variance is the biased one.
        skip: x itself; what is done with it adds to the gradient of x at no further pass.
    """

    y: Tensor
    z: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    skip: Tensor | None


def normalise(x: Tensor, norm: Norm, backend: str | None = None) -> Tensor:
    """Return relu((x - mean) / sqrt(var + eps) * weight + bias + residual), batch-last.

    Args:
        x: [N, C, ...], fastest batch-last.

    Raises:
        GemkernError: shapes or dtypes do not fit, or no backend can serve; in a second derivative.
    """
    check_statistics("normalise", x, norm)
    mean, var, weight, bias, eps, residual, relu = norm
    return _normalise(x, residual, mean, var, weight, bias, eps, relu, backend or "")


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
    where = "norm_sparse_conv2d"
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    x = checked(where, x, values, pattern, bias)
    check_conv2d(x, pattern.shape, stride, padding, dilation, groups, where)
    if added is not None:
        image = output_image(x.shape[2:], pattern.shape[2:], stride, padding, dilation)
        _check_added(where, x, added, pattern.shape[0], image)
    mean = var = weight = shift = residual = None
    eps, relu = 0.0, False
    if norm is not None:
        check_statistics(where, x, norm)
        mean, var, weight, shift, eps, residual, relu = norm
    tensors = (x, residual, mean, var, weight, shift, values, bias, added)
    how = _How(
        pattern, eps, relu, keep or residual is not None, moments, stride, padding, dilation,
        groups, backend or "", skip,
    )  # fmt: skip
    # Compiled code holds the operator alone: what is done with x then adds a pass.
    if torch.compiler.is_compiling():
        y, z, mean_y, var_y = _convolve(*_flat(tensors, how))
    elif not torch.is_grad_enabled():
        y, z, mean_y, var_y = _convolve_shortly(*_flat(tensors, how))
    else:
        # Where the operator leads, by a shorter way.
        y, z, mean_y, var_y, *through = _Convolve.apply(*tensors, how)
        x = through[0] if skip else x
    return NormSparse(y, z if keep else None, mean_y, var_y, x if skip else None)


def _check_added(where: str, x: Tensor, added: Tensor, outputs: int, image: Pair) -> None:
    size = (x.shape[0], outputs, *image)
    if (tuple(added.shape), added.dtype) != (size, x.dtype):
        raise GemkernError(
            f"{where}: what is added is {added.dtype} {tuple(added.shape)} and the result "
            f"{x.dtype} {size}; make them alike"
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


class _How(NamedTuple):
    """What the operator takes beside tensors that may have gradients, and whether x goes on."""

    pattern: Pattern
    eps: float
    relu: bool
    keep: bool
    moments: bool
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    backend: str
    skip: bool = False

    @property
    def geometry(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
        return self.stride, self.padding, self.dilation, self.groups


def _flat(tensors: Sequence[Tensor | None], how: _How) -> tuple[Any, ...]:
    """Return the operator's arguments."""
    *before, bias, added = tensors
    flags = how.eps, how.relu, how.keep, how.moments
    return *before, *how.pattern, bias, added, *flags, *how.geometry, how.backend


class _Convolve(torch.autograd.Function):
    """The operator; if x goes on, it is the last output, and its gradient joins the same pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
        *tensors, how = inputs
        x, residual, mean, var, weight, shift, values, _, added = tensors
        # Laid out here it is for both passes.
        laid = x if x.stride(0) == 1 else batch_last(x)
        y, z, mean_y, var_y = _convolve_shortly(*_flat((laid, *tensors[1:]), how))
        ctx.how, ctx.size = how, y.shape
        ctx.has_residual, ctx.has_added = residual is not None, added is not None
        ctx.set_materialize_grads(False)
        # PyTorch's own convolution and norm save neither result: who forgets what it needs them
        # for may change them.
        ctx.measured = _Unsaved.of(y) if how.moments else None
        ctx.kept = None if z is None else _Unsaved.of(z)
        ctx.save_for_backward(mean_y, laid, mean, var, weight, shift, values)
        return (y, z, mean_y, var_y, x.view_as(x)) if how.skip else (y, z, mean_y, var_y)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_y, grad_z, grad_mean, grad_var, *skips = grads
        mean_y, x, mean, var, weight, shift, values = ctx.saved_tensors
        how: _How = ctx.how
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
        if ctx.kept is not None and (wants_values or how.relu):
            z = ctx.kept.unchanged()
        elif ctx.has_residual:
            z = x
        grad_y = x.new_zeros(ctx.size) if grad_y is None else grad_y
        *of_input, grad_values, grad_added = _convolve_backward(
            grad_y, grad_z, grad_mean, grad_var, skips[0] if skips else None, y, mean_y, z, x, mean,
            var, weight, shift, values, *how.pattern, how.eps, how.relu, ctx.has_residual,
            ctx.has_added, mean is not None or wants_x, wants_values, *how.geometry, how.backend,
        )  # fmt: skip
        if ctx.has_added and grad_added is None:
            grad_added = grad_y
        grad_bias = None
        if wants_bias:
            grad_bias = grad_y.sum((0, 2, 3))
            # Deviations from a mean sum to 0: the variance has no share.
            grad_bias = grad_bias if grad_mean is None else grad_bias + grad_mean
        return *of_input, grad_values, grad_bias, grad_added, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise GemkernError("norm_sparse_conv2d has no derivative in forward mode: use backward()")


def _apply(*inputs: Any) -> Any:
    """Call the operator, given its arguments, with gradients."""
    *tensors, shape = inputs[:8]
    pattern = Pattern(tuple(shape), *inputs[8:10])
    return _Convolve.apply(*tensors, *inputs[10:12], _How(pattern, *inputs[12:]))


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
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, residual, mean, var, weight, bias, *ctx.how = inputs
        with torch._C._AutoDispatchBelowAutograd():
            y = _normalise(*inputs)
        ctx.has_residual = residual is not None
        # Without a ReLU the gradient does not depend on the result.
        ctx.save_for_backward(y if ctx.how[1] else None, x, mean, var, weight, bias)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        eps, relu, backend = ctx.how
        y, x, *norm = ctx.saved_tensors
        y = x if y is None else y
        grads = _normalise_backward(grad_y, y, x, *norm, eps, relu, ctx.has_residual, backend)
        return *grads, None, None, None


differentiable("norm_sparse_conv2d", _apply)
differentiable("normalise", _Normalise.apply)
