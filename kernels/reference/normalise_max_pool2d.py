"""Batch norm by statistics that are given, ReLU and the maximum over windows, batch-last.

Of `gemkern.kernels.reference.normalise` and `gemkern.kernels.reference.pooling`, one behind the
other.
"""

from __future__ import annotations

from gemkern.kernels.reference.normalise import Norm, normalise, normalise_backward
from gemkern.kernels.reference.pooling import Pair, max_pool2d, max_pool2d_backward
from torch import Tensor

NO_PADDING = (0, 0)


def normalise_max_pool2d(
    x: Tensor,
    norm: Norm,
    kernel: Pair,
    stride: Pair,
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window of `normalise(x, norm)`, and where it stands.

    Args:
        x: [N, C, H, W], any float dtype.
        norm: without a residual.
        kernel, stride: by height and width; at most 256 taps, and windows that do not overlap.

    Returns:
        y, taps: as of `max_pool2d`.
    """
    return max_pool2d(normalise(x, norm), kernel, stride, NO_PADDING)


def normalise_max_pool2d_backward(
    grad_y: Tensor,
    y: Tensor,
    taps: Tensor,
    x: Tensor,
    norm: Norm,
    kernel: Pair,
    stride: Pair,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of `normalise_max_pool2d` to x, mean, var, weight and bias.

    Args:
        grad_y, y, taps: dL/dy and the results.

    Returns:
        grad_x: as x, batch-last; 0 at what is no maximum.
        grad_mean, grad_var, grad_weight, grad_bias: [C], None for a weight or bias that is None.
    """
    # What is no maximum has no gradient: what it was normalised to need not be known.
    grad_z, z = (
        max_pool2d_backward(one, taps, x.shape, kernel, stride, NO_PADDING) for one in (grad_y, y)
    )
    grad_x, _, *of_norm = normalise_backward(grad_z, z, x, norm, False)
    return grad_x, *of_norm
