"""A two-dimensional convolution by the weights that remain, and its gradients, with Numba.

Operands as in `kernels/reference/sparse_conv2d.py`, float32 on the CPU; the reference serves other
dtypes. Each sum is made in one order whatever the number of threads, which is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.compiling import announce
from gemkern.kernels.cpu.conv2d_walk import Axis, forward_axis, input_grad_axis
from gemkern.kernels.cpu.image_chunks import image_chunks, streamed_chunks
from gemkern.kernels.cpu.serving import float32_or
from gemkern.kernels.cpu.sparse_blocks import block_of_pixels, bounds_of_parts
from gemkern.kernels.cpu.sparse_gather import gather
from gemkern.kernels.cpu.sparse_lists import Entries
from gemkern.kernels.cpu.sparse_products import multiply
from gemkern.kernels.cpu.threads import parts_of, start_threads
from gemkern.kernels.cpu.vectors import BYTES_OF_FLOAT, BYTES_OF_VECTOR
from gemkern.kernels.reference.batch_last import batch_last, empty_batch_last
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

Pair = Sequence[int]
# Bytes from which what is written has left the caches before it is read. Smaller outputs are read
# sooner by the next operator than memory could give them back.
LARGE = 24 * 2**20
NO_ORDER = np.empty(0, dtype=np.int64)
NO_BIAS = np.empty(0, dtype=np.float32)


@float32_or(reference.sparse_conv2d)
def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return y, the convolution of x with the remaining weights, plus bias [Co], batch-last."""
    x = batch_last(x)
    rows, columns, read = _forward_walk(x.shape, pattern, stride, padding, dilation, groups)
    y = empty_batch_last((x.shape[0], pattern.shape[0], len(rows.pixels), len(columns.pixels)), x)
    offset = NO_BIAS if bias is None else _numbers(bias)
    entries = _by_output(pattern, groups, _numbers(values), read)
    _gather(y, x, offset, entries, rows, columns)
    return y


@float32_or(reference.sparse_conv2d_input_grad)
def sparse_conv2d_input_grad(
    grad_y: Tensor,
    input_size: Sequence[int],
    values: Tensor,
    pattern: Pattern,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return dL/dx of shape `input_size`, batch-last, from dL/dy."""
    grad_y = batch_last(grad_y)
    image, kernel = tuple(grad_y.shape[2:]), pattern.shape[2:]
    span = tuple((kernel[axis] - 1) * dilation[axis] // stride[axis] + 1 for axis in (0, 1))
    block, read = block_of_pixels(
        pattern.shape[0] // groups, image, span, 1 / stride[1], grad_y.shape[0]
    )
    rows, columns = (
        input_grad_axis(
            image[axis], input_size[2 + axis], kernel[axis], stride[axis], padding[axis],
            dilation[axis], block,
        )
        for axis in (0, 1)
    )  # fmt: skip
    grad_x = empty_batch_last(input_size, grad_y)
    entries = _by_input(pattern, groups, _numbers(values), read)
    _gather(grad_x, grad_y, NO_BIAS, entries, rows, columns)
    return grad_x


@float32_or(reference.sparse_conv2d_weight_grad)
def sparse_conv2d_weight_grad(
    grad_y: Tensor,
    x: Tensor,
    pattern: Pattern,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    x, grad_y = batch_last(x), batch_last(grad_y)
    rows, columns, read = _forward_walk(x.shape, pattern, stride, padding, dilation, groups)
    grad_values = x.new_empty(len(pattern.positions))
    announce("sparse weight gradient")
    labels = np.arange(1, len(grad_values) + 1, dtype=np.int32)
    multiply(
        start_threads(), grad_values.numpy(), grad_y.data_ptr(), _strides(grad_y), x.data_ptr(),
        _strides(x), _by_output(pattern, groups, labels, read), rows, columns,
        image_chunks(x.shape[0]),
    )  # fmt: skip
    return grad_values


def _forward_walk(
    size: Sequence[int],
    pattern: Pattern,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Axis, Axis, int]:
    """Return the walks that write the output, and how many channels they read together."""
    image, kernel = tuple(size[2:]), pattern.shape[2:]
    span = tuple((kernel[axis] - 1) * dilation[axis] + 1 for axis in (0, 1))
    block, read = block_of_pixels(pattern.shape[1], image, span, stride[1], size[0])
    height, width = (
        forward_axis(image[axis], kernel[axis], stride[axis], padding[axis], dilation[axis], block)
        for axis in (0, 1)
    )
    return height, width, read


def _gather(
    target: Tensor, source: Tensor, bias: np.ndarray, entries: Entries, rows: Axis, columns: Axis
) -> None:
    """Write every channel and pixel of the target."""
    announce("sparse forward and input gradient")
    chunks, channels = _chunks_of(target, entries), target.shape[1]
    threads = start_threads()
    gather(
        threads, parts_of(threads, len(rows.pixels) * len(chunks), channels), channels,
        target.data_ptr(), _strides(target), source.data_ptr(), _strides(source), bias, entries,
        rows, columns, chunks,
    )  # fmt: skip


def _chunks_of(target: Tensor, entries: Entries) -> np.ndarray:
    """Return the chunks of images, streamed where the target is large, aligned, written once."""
    aligned = target.shape[0] * BYTES_OF_FLOAT % BYTES_OF_VECTOR == 0
    aligned = aligned and target.data_ptr() % BYTES_OF_VECTOR == 0
    once = len(entries.read_blocks) == 2
    large = target.numel() * BYTES_OF_FLOAT >= LARGE
    return (streamed_chunks if aligned and once and large else image_chunks)(target.shape[0])


def _by_output(pattern: Pattern, groups: int, labels: np.ndarray, read: int) -> Entries:
    """Return the entries as the output reads the input, `read` channels together."""
    outputs, inputs, height, width = pattern.shape
    taps = height * width
    return Entries(
        labels, pattern.positions.numpy(), pattern.starts.numpy(), NO_ORDER, False,
        outputs // groups, inputs, taps, inputs, taps, width, bounds_of_parts(inputs, read),
    )  # fmt: skip


def _by_input(pattern: Pattern, groups: int, labels: np.ndarray, read: int) -> Entries:
    """Return the entries as the gradient of the input reads that of the output."""
    outputs, inputs, height, width = pattern.shape
    taps = height * width
    parts = bounds_of_parts(outputs, read if groups == 1 else outputs)
    return Entries(
        labels, pattern.positions.numpy(), pattern.input_starts.numpy(),
        pattern.input_order.numpy(), True, inputs, outputs // groups, inputs * taps, outputs, taps,
        width, parts,
    )  # fmt: skip


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().numpy()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Return the bytes from one channel, row and column of a batch-last tensor to the next."""
    batch, _, height, width = x.shape
    pixel = BYTES_OF_FLOAT * batch
    return pixel * height * width, pixel * width, pixel
