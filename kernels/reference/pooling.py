"""Average and maximum over windows of an image, in the batch-last layout."""

from __future__ import annotations

import torch
from gemkern.kernels.reference.batch_last import batch_last
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]


def average_pool2d(
    x: Tensor, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Tensor:
    """Return the mean of each window, [N, C, OH, OW], batch-last; as `F.avg_pool2d`.

    Args:
        x: [N, C, H, W], any float dtype.
        kernel, stride, padding: by height and width; the padding is at most half a kernel.
        count_include_pad: whether what is padded counts as zeros, or not at all.
    """
    return batch_last(F.avg_pool2d(x, kernel, stride, padding, False, count_include_pad))


def average_pool2d_backward(
    grad_y: Tensor,
    shape: Shape,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
) -> Tensor:
    """Return dL/dx of `shape` [N, C, H, W], batch-last, from grad_y, dL/dy."""
    # Of x nothing but its shape is read.
    x = grad_y.new_empty(()).expand(shape)
    return batch_last(
        torch.ops.aten.avg_pool2d_backward(
            grad_y, x, kernel, stride, padding, False, count_include_pad, None
        )
    )


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window, and where it stands; as `F.max_pool2d`.

    Of equal values the first counts, in row-major order of the window; a NaN is the maximum, the
    last one of several.

    Args:
        x: [N, C, H, W], any float dtype.
        kernel, stride, padding: by height and width; at most 256 taps, and a padding of at most
            half a kernel, which is never the maximum.

    Returns:
        y: [N, C, OH, OW], as x, batch-last.
        taps: uint8, as y: i * kernel width + j for the maximum at row i, column j of the window. A
            quarter of the bytes of y, where indices into the image would take twice those.
    """
    y, indices = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
    width = x.shape[3]
    rows, columns = _corners(y, stride, padding)
    taps = (indices // width - rows) * kernel[1] + indices % width - columns
    return batch_last(y), batch_last(taps.to(torch.uint8))


def max_pool2d_backward(
    grad_y: Tensor, taps: Tensor, shape: Shape, kernel: Pair, stride: Pair, padding: Pair
) -> Tensor:
    """Return dL/dx of `shape` [N, C, H, W], batch-last, from grad_y, dL/dy, and `taps`."""
    rows, columns = _corners(grad_y, stride, padding)
    taps = taps.to(torch.int64)
    indices = (taps // kernel[1] + rows) * shape[3] + taps % kernel[1] + columns
    flat = grad_y.new_zeros(shape).flatten(2)
    return batch_last(flat.scatter_add(2, indices.flatten(2), grad_y.flatten(2)).view(shape))


def _corners(y: Tensor, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    """Return row [OH, 1] and column [OW] of the image at which the windows of y begin."""
    rows, columns = (
        torch.arange(size, device=y.device) * step - pad
        for size, step, pad in zip(y.shape[2:], stride, padding, strict=True)
    )
    return rows[:, None], columns
