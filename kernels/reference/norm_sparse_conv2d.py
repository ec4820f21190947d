"""A sparse convolution that normalises what it reads and measures what it writes.

Batch norm lies between two convolutions: its statistics are measured where the first writes, and it
is applied where the second reads, so that neither costs a pass over the activation. A residual is
added where the norm is applied (He et al., CVPR 2016) or where the convolution writes (the
pre-activation order of He et al., ECCV 2016).

x is [N, Ci, H, W], y [N, Co, H', W'], batch-last; `pattern`, `values` and `geometry` are those of
`gemkern.kernels.reference.sparse_conv2d`, `norm` is that of `gemkern.kernels.reference.normalise`.
"""

from __future__ import annotations

from typing import NamedTuple

from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.normalise import Norm, normalise, normalise_backward, per_channel
from gemkern.kernels.reference.pattern import Pattern
from gemkern.kernels.reference.sparse_conv2d import (
    sparse_conv2d,
    sparse_conv2d_input_grad,
    sparse_conv2d_weight_grad,
)
from torch import Tensor

IMAGES = (0, 2, 3)


class NormSparse(NamedTuple):
    """Results of a convolution, or the gradients of each; None for what is not there.

    Attributes:
        y: [N, Co, H', W'], batch-last.
        z: as x, what was convolved.
        mean, var: [Co], the moments of y over images and pixels; the variance is the biased one.
        skip: x itself; what is done with it adds to the gradient of x at no further pass.
    """

    y: Tensor
    z: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    skip: Tensor | None


class Gradients(NamedTuple):
    """What `norm_sparse_conv2d_backward` returns; None for an operand that was None."""

    x: Tensor | None
    residual: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    values: Tensor | None
    added: Tensor | None


def norm_sparse_conv2d(
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    keep: bool,
    moments: bool,
    geometry: Geometry,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return y = conv(z) + bias + added for z = normalise(x, norm), z, and mean and variance of y.

    Args:
        norm: of Ci channels; or None: then z is x.
        bias: [Co] or None.
        added: as y, or None.
        keep: whether z is returned.
        moments: whether mean and (biased) variance of y over images and pixels, [Co], are.
    """
    z = x if norm is None else normalise(x, norm)
    y = sparse_conv2d(z, values, pattern, bias, geometry)
    if added is not None:
        y = batch_last(y + added)
    if not moments:
        return y, z if keep else None, None, None
    mean_y = y.mean(IMAGES)
    return y, z if keep else None, mean_y, (y - per_channel(mean_y, y)).square().mean(IMAGES)


def norm_sparse_conv2d_backward(
    grads: NormSparse,
    y: Tensor | None,
    mean_y: Tensor | None,
    z: Tensor | None,
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    has_residual: bool,
    has_added: bool,
    wants_x: bool,
    wants_values: bool,
    geometry: Geometry,
) -> Gradients:
    """Return the gradients of `norm_sparse_conv2d`.

    Args:
        grads: dL/dy, without the share of its moments; of z and skip, what else z and x were used
            for. Those of the moments are None together, and where they are not wanted.
        y, mean_y: what the moments are of, and their mean; None without moments.
        z: what was kept of the forward pass; None to normalise again, which has no residual then.
        norm: without its residual.
        has_residual: whether it had one.
        has_added: whether something was added to y; its gradient is None without moments: it is
            grad_y then.
        wants_x, wants_values: whether these gradients are needed. Where there is a norm, x's is.
    """
    grad_y = grads.y
    if mean_y is not None and y is not None and grads.mean is not None and grads.var is not None:
        count = y.numel() // max(y.shape[1], 1)
        slope = per_channel(2 * grads.var / count, y)
        away = y - per_channel(mean_y, y)
        grad_y = batch_last(grad_y + per_channel(grads.mean / count, y) + away * slope)
    if z is None:
        z = x if norm is None else normalise(x, norm)
    grad_values = None
    if wants_values:
        grad_values = sparse_conv2d_weight_grad(grad_y, z, pattern, geometry)
    grad_added = grad_y if has_added and mean_y is not None else None
    if not wants_x:
        return Gradients(None, None, None, None, None, None, grad_values, grad_added)
    grad_x = sparse_conv2d_input_grad(grad_y, x.shape, values, pattern, geometry)
    if grads.z is not None:
        grad_x = batch_last(grad_x + grads.z)
    of_norm: list[Tensor | None] = [None] * 5
    if norm is not None:
        grad_x, *of_norm = normalise_backward(grad_x, z, x, norm, has_residual)
    if grads.skip is not None:
        grad_x = batch_last(grad_x + grads.skip)
    return Gradients._make((grad_x, *of_norm, grad_values, grad_added))
