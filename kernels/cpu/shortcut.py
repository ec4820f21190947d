"""The shortcut without parameters: pixels are copied, those of a batch one stretch of memory.

Named and called as `gemkern.kernels.reference.shortcut`. Rows of the image are shared out among
threads; each number of a result is written once.
"""

from __future__ import annotations

from gemkern.kernels.cpu.batch_last import batch_last
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import share_of
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.memory import rows
from gemkern.kernels.cpu.machine.serving import float32_or
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.geometry import output_image
from gemkern.kernels.reference import shortcut as reference
from gemkern.kernels.reference.shortcut import Pair, Shape
from numba import prange
from torch import Tensor


@njit(cache=True)
def copy(source, target):
    """Write source [n] to target [n]; Numba's assignment of slices takes three times as long."""
    for i in range(target.size):
        target[i] = source[i]


@njit(cache=True)
def clear(target):
    """Write zeros to target [n]."""
    for i in range(target.size):
        target[i] = 0


@njit(cache=True, parallel=True)
def forward(threads, channels, images, x, y, image, out, stride, before, after):
    """Write y [before + channels + after, *out, images]; x and y are addresses."""
    source = rows(x, channels * image[0] * image[1], images)
    lines = (before + channels + after) * out[0]
    target = rows(y, lines * out[1], images)
    for thread in prange(threads):
        # In turns: lines of zeros, which lie together, take less time.
        for line in range(thread, lines, threads):
            channel, h = line // out[0] - before, line % out[0]
            first = (channel * image[0] + h * stride[0]) * image[1]
            for w in range(out[1]):
                pixel = target[line * out[1] + w]
                if 0 <= channel < channels:
                    copy(source[first + w * stride[1]], pixel)
                else:
                    clear(pixel)


@njit(cache=True, parallel=True)
def backward(threads, channels, images, grad_y, grad_x, image, out, stride, before):
    """Write grad_x [channels, *image, images]; grad_y and grad_x are addresses."""
    source = rows(grad_y, (before + channels) * out[0] * out[1], images)
    lines = channels * image[0]
    target = rows(grad_x, lines * image[1], images)
    for thread in prange(threads):
        for line in range(*share_of(lines, thread, threads)):
            channel, h = line // image[0] + before, line % image[0]
            first = (channel * out[0] + h // stride[0]) * out[1]
            for w in range(image[1]):
                pixel = target[line * image[1] + w]
                if h % stride[0] or w % stride[1]:
                    clear(pixel)
                else:
                    copy(source[first + w // stride[1]], pixel)


@float32_or(reference.padded_shortcut)
def padded_shortcut(x: Tensor, stride: Pair, before: int, after: int) -> Tensor:
    x = batch_last(x)
    images, channels, *image = x.shape
    out = output_image(image, (1, 1), stride, (0, 0))
    y = empty_batch_last((images, before + channels + after, *out), x)
    forward(
        start_threads(), channels, images, x.data_ptr(), y.data_ptr(), tuple(image), out,
        tuple(stride), before, after,
    )  # fmt: skip
    return y


@float32_or(reference.padded_shortcut_backward)
def padded_shortcut_backward(grad_y: Tensor, shape: Shape, stride: Pair, before: int) -> Tensor:
    grad_y = batch_last(grad_y)
    images, channels, *image = shape
    grad_x = empty_batch_last((images, channels, *image), grad_y)
    backward(
        start_threads(), channels, images, grad_y.data_ptr(), grad_x.data_ptr(), tuple(image),
        tuple(grad_y.shape[2:]), tuple(stride), before,
    )  # fmt: skip
    return grad_x
