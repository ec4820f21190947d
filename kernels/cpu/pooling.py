"""Average and maximum over windows, pixel by pixel: those of a batch are one stretch of memory.

Named and called as `gemkern.kernels.reference.pooling`. Channels are shared out among threads.
A gradient is gathered: each pixel of grad_x is written once, from the windows that it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from gemkern.kernels.cpu.batch_last import batch_last, contiguous
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, LANES, share_of
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.memory import flag_rows, rows
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.serving import Kernel, address, float32_or
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.geometry import output_image
from gemkern.kernels.reference import pooling as reference
from gemkern.kernels.reference.pooling import Pair, Shape
from numba import prange
from torch import Tensor

# What `pool` can do.
AVERAGE, AVERAGE_BACKWARD, MAXIMUM, MAXIMUM_BACKWARD = range(4)


@njit(cache=True)
def window(place, kernel, stride, padding, size):
    """Return the first pixel of a window, and those of the image where it begins and ends."""
    first = place * stride - padding
    return first, max(first, 0), min(first + kernel, size)


@njit(cache=True)
def windows(place, kernel, stride, padding, count):
    """Return the first window that a pixel is in, and the one after the last."""
    reach = place + padding
    first = max((reach - kernel) // stride + 1, 0)
    return first, min(reach // stride + 1, count)


@njit(cache=True)
def add_rows(x, start, stop, total):
    """Add rows start to stop of x [rows, n] to total [n], four at a time."""
    row = start
    while row + 4 <= stop:
        one, two, three, four = x[row], x[row + 1], x[row + 2], x[row + 3]
        for i in range(total.size):
            total[i] += (one[i] + two[i]) + (three[i] + four[i])
        row += 4
    while row < stop:
        one = x[row]
        for i in range(total.size):
            total[i] += one[i]
        row += 1


@njit(cache=True)
def average_channel(x, y, image, out, kernel, stride, padding, count_include_pad):
    """Write the means of the windows of x [H * W, N] to y [OH * OW, N]."""
    for h in range(out[0]):
        _, top, bottom = window(h, kernel[0], stride[0], padding[0], image[0])
        for w in range(out[1]):
            _, left, right = window(w, kernel[1], stride[1], padding[1], image[1])
            total = y[h * out[1] + w]
            total[:] = 0
            for i in range(top, bottom):
                add_rows(x, i * image[1] + left, i * image[1] + right, total)
            count = (bottom - top) * (right - left)
            total /= np.float32(kernel[0] * kernel[1] if count_include_pad else count)


@njit(cache=True)
def average_channel_backward(grad_y, grad_x, image, out, kernel, stride, padding, include):
    """Write to grad_x [H * W, N] what its windows in grad_y [OH * OW, N] send back."""
    for h in range(image[0]):
        first_h, last_h = windows(h, kernel[0], stride[0], padding[0], out[0])
        for w in range(image[1]):
            first_w, last_w = windows(w, kernel[1], stride[1], padding[1], out[1])
            target = grad_x[h * image[1] + w]
            target[:] = 0
            for i in range(first_h, last_h):
                _, top, bottom = window(i, kernel[0], stride[0], padding[0], image[0])
                for j in range(first_w, last_w):
                    _, left, right = window(j, kernel[1], stride[1], padding[1], image[1])
                    count = (bottom - top) * (right - left)
                    weight = np.float32(1 / (kernel[0] * kernel[1] if include else count))
                    source = grad_y[i * out[1] + j]
                    for n in range(target.size):
                        target[n] += source[n] * weight


@njit(cache=True)
def maximum_channel(x, y, taps, image, out, kernel, stride, padding):
    """Write the maxima of the windows of x [H * W, N], and their taps, to y and taps."""
    for h in range(out[0]):
        row, top, bottom = window(h, kernel[0], stride[0], padding[0], image[0])
        for w in range(out[1]):
            column, left, right = window(w, kernel[1], stride[1], padding[1], image[1])
            best, tap_of = y[h * out[1] + w], taps[h * out[1] + w]
            best[:] = x[top * image[1] + left]
            tap_of[:] = np.uint8((top - row) * kernel[1] + left - column)
            for i in range(top, bottom):
                for j in range(left, right):
                    tap = np.uint8((i - row) * kernel[1] + j - column)
                    values = x[i * image[1] + j]
                    for n in range(best.size):
                        value = values[n]
                        greater = value > best[n] or value != value
                        best[n] = value if greater else best[n]
                        tap_of[n] = tap if greater else tap_of[n]


@njit(cache=True)
def maximum_channel_backward(grad_y, taps, grad_x, image, out, kernel, stride, padding):
    """Write to grad_x [H * W, N] the gradients of the windows whose maximum a pixel is."""
    zero = np.float32(0)
    for h in range(image[0]):
        first_h, last_h = windows(h, kernel[0], stride[0], padding[0], out[0])
        for w in range(image[1]):
            first_w, last_w = windows(w, kernel[1], stride[1], padding[1], out[1])
            target = grad_x[h * image[1] + w]
            target[:] = 0
            for i in range(first_h, last_h):
                row = h - i * stride[0] + padding[0]
                for j in range(first_w, last_w):
                    tap = row * kernel[1] + w - j * stride[1] + padding[1]
                    source, tap_of = grad_y[i * out[1] + j], taps[i * out[1] + j]
                    for n in range(target.size):
                        target[n] += source[n] if tap_of[n] == np.uint8(tap) else zero


@njit(cache=True, parallel=True)
def pool(which, threads, channels, images, x, y, taps, windows, include):
    """Do `which` for every channel, in threads; x, y and taps are addresses.

    Backward x is the gradient that is written, and y the one that is read. windows: pixels of x and
    of y, kernel, stride and padding. include: as `count_include_pad`, of means.
    """
    image, out, kernel, stride, padding = windows
    inside, outside = image[0] * image[1], out[0] * out[1]
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for channel in range(*share_of(channels, thread, threads)):
            of_x = rows(x + BYTES * channel * inside * images, inside, images)
            of_y = rows(y + BYTES * channel * outside * images, outside, images)
            of_taps = flag_rows(taps + channel * outside * images, outside, images)
            if which == AVERAGE:
                average_channel(of_x, of_y, image, out, kernel, stride, padding, include)
            elif which == AVERAGE_BACKWARD:
                average_channel_backward(of_y, of_x, image, out, kernel, stride, padding, include)
            elif which == MAXIMUM:
                maximum_channel(of_x, of_y, of_taps, image, out, kernel, stride, padding)
            else:
                maximum_channel_backward(of_y, of_taps, of_x, image, out, kernel, stride, padding)
        adopt(before)


def _pool(
    which: int, x: Tensor, y: Tensor, taps: Tensor | None, walk: Sequence[Pair], include: bool
) -> None:
    windows = tuple(map(tuple, (x.shape[2:], y.shape[2:], *walk)))
    images, channels = x.shape[:2]
    of_tensors = (x.data_ptr(), y.data_ptr(), address(taps))
    pool(which, start_threads(), channels, images, *of_tensors, windows, include)


def many_or(few: Kernel) -> Callable[[Kernel], Kernel]:
    """Let `few` serve less images than a vector has lanes: vectors of them are mostly empty."""

    def decorate(kernel: Kernel) -> Kernel:
        @wraps(kernel)
        def run(images: Tensor, *others: Any) -> Any:
            if images.shape[0] < LANES:
                return few(contiguous(images), *others)
            return kernel(images, *others)

        return run

    return decorate


@float32_or(reference.average_pool2d)
@many_or(reference.average_pool2d)
def average_pool2d(
    x: Tensor, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Tensor:
    x = batch_last(x)
    y = empty_batch_last((*x.shape[:2], *output_image(x.shape[2:], kernel, stride, padding)), x)
    _pool(AVERAGE, x, y, None, (kernel, stride, padding), count_include_pad)
    return y


@float32_or(reference.average_pool2d_backward)
@many_or(reference.average_pool2d_backward)
def average_pool2d_backward(
    grad_y: Tensor,
    shape: Shape,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
) -> Tensor:
    grad_y = batch_last(grad_y)
    grad_x = empty_batch_last(tuple(shape), grad_y)
    _pool(AVERAGE_BACKWARD, grad_x, grad_y, None, (kernel, stride, padding), count_include_pad)
    return grad_x


@float32_or(reference.max_pool2d)
@many_or(reference.max_pool2d)
def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    x = batch_last(x)
    y = empty_batch_last((*x.shape[:2], *output_image(x.shape[2:], kernel, stride, padding)), x)
    taps = torch.empty_like(y, dtype=torch.uint8)
    _pool(MAXIMUM, x, y, taps, (kernel, stride, padding), False)
    return y, taps


@float32_or(reference.max_pool2d_backward)
def max_pool2d_backward(
    grad_y: Tensor, taps: Tensor, shape: Shape, kernel: Pair, stride: Pair, padding: Pair
) -> Tensor:
    grad_y, taps = batch_last(grad_y), batch_last(taps)
    grad_x = empty_batch_last(tuple(shape), grad_y)
    _pool(MAXIMUM_BACKWARD, grad_x, grad_y, taps, (kernel, stride, padding), False)
    return grad_x
