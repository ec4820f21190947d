"""A norm by statistics that are known, ReLU and max pooling: one pass forward, and one back.

Named and called as `gemkern.kernels.reference.normalise_max_pool2d`, float32 on the CPU. The
forward pass reads x and writes y and taps: what is normalised never leaves the registers. The
backward pass reads grad_y, y, taps and x and writes grad_x: the gradients of a row of windows are
spread over its rows of pixels in the cache, and led through the norm from there.

A band is a row of windows of one channel with all the rows of pixels up to the next one. It is
summed on its own, so that a result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last
from gemkern.kernels.cpu.loops.norms import (
    NormAddresses,
    addresses_of,
    affine,
    constants_of,
    write_norm_grads,
)
from gemkern.kernels.cpu.loops.vector_rows import one_stretch, row_loop
from gemkern.kernels.cpu.loops.vector_windows import norm_maximum
from gemkern.kernels.cpu.loops.vectors import Emitter, Vectors, wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, aligned, share_of
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.memory import flag_rows, floats, rows
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.scratch import scratch
from gemkern.kernels.cpu.machine.serving import address, float32_or, gradients_of
from gemkern.kernels.cpu.machine.streaming import streams
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.cpu.normalise import AHEAD
from gemkern.kernels.cpu.pooling import maximum_channel_backward
from gemkern.kernels.geometry import Pair, output_image
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.normalise_max_pool2d import NO_PADDING
from numba import prange
from torch import Tensor


def _through_norm(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
    """Lead a gradient through the norm to x; sum it, and its product with x - mean."""
    gradient, x = read
    mean, scale = constants
    away = at.builder.fsub(x, mean)
    return [at.builder.fmul(gradient, scale)], [gradient, at.builder.fmul(gradient, away)]


to_x, to_x_streamed = (row_loop("nf", place, 2, 2, _through_norm) for place in "fs")


@njit
def band_of(task, image, out, stride):
    """Return channel and row of windows of a task, its first row of pixels, and how many it has."""
    channel, band = divmod(task, out[0])
    first = band * stride[0]
    following = image[0] if band == out[0] - 1 else first + stride[0]
    return channel, band, first, following - first


@njit(cache=True, parallel=True, error_model="numpy")
def forward(threads, channels, images, x, y, taps, of_norm, image, out, kernel, stride):
    """Write the maxima and their taps; x, y and taps are addresses, `of_norm` a norm's fields."""
    control = float_control()
    norm = NormAddresses(*of_norm)
    table = affine(norm, channels)
    pixel = images * BYTES
    shape = (out[1], images, *kernel, image[1] * pixel, stride[1] * pixel, AHEAD)
    for thread in prange(threads):
        before = adopt(control)
        for task in range(*share_of(channels * out[0], thread, threads)):
            channel, _, first, _ = band_of(task, image, out, stride)
            source = x + (channel * image[0] + first) * image[1] * pixel
            at = task * out[1] * images
            norm_maximum(
                shape, (source, y + at * BYTES, taps + at), constants_of(table, channel, norm)
            )
        adopt(before)


@njit
def open_gradients(grad_y, y, least, opened):
    """Write of grad_y [n] what the ReLU lets through, whose results are y, and 0 elsewhere."""
    for n in range(opened.size):
        opened[n] = np.float32(0) if y[n] <= least else grad_y[n]


@njit(cache=True, parallel=True, error_model="numpy")
def backward(
    threads, channels, images, grad_y, y, taps, x, of_norm, grad_x, grad_norm, image, out, kernel,
    stride, room, size, streamed,
):  # fmt: skip
    """Write the gradients, of which those of the norm as `write_norm_grads` does."""
    control = float_control()
    norm = NormAddresses(*of_norm)
    table = affine(norm, channels)
    sums = np.zeros((out[0], channels, 2))
    windows = out[1] * images
    for thread in prange(threads):
        before = adopt(control)
        opened = room + thread * size
        spread = opened + aligned(windows * BYTES)
        for task in range(*share_of(channels * out[0], thread, threads)):
            channel, band, first, height = band_of(task, image, out, stride)
            pixels = height * image[1]
            at = task * windows
            open_gradients(
                floats(grad_y + at * BYTES, windows), floats(y + at * BYTES, windows),
                np.float32(norm.least), floats(opened, windows),
            )  # fmt: skip
            maximum_channel_backward(
                rows(opened, out[1], images), flag_rows(taps + at, out[1], images),
                rows(spread, pixels, images), (height, image[1]), (1, out[1]), kernel, stride,
                (0, 0),
            )  # fmt: skip
            offset = (channel * image[0] + first) * image[1] * images * BYTES
            shape = one_stretch(pixels * images, AHEAD)
            constants = (table[channel, 0], table[channel, 1])
            places = (spread, x + offset, grad_x + offset)
            if streamed:
                once, twice = to_x_streamed(shape, places, constants)
            else:
                once, twice = to_x(shape, places, constants)
            sums[band, channel, 0], sums[band, channel, 1] = once, twice
        wait_for_stores()
        adopt(before)
    write_norm_grads(sums, norm, table, grad_norm)


@float32_or(reference.normalise_max_pool2d)
def normalise_max_pool2d(
    x: Tensor, norm: Norm, kernel: Pair, stride: Pair
) -> tuple[Tensor, Tensor]:
    x = batch_last(x)
    images, channels, *image = x.shape
    out = output_image(image, kernel, stride, NO_PADDING)
    y = empty_batch_last((images, channels, *out), x)
    taps = torch.empty_like(y, dtype=torch.uint8)
    forward(
        start_threads(), channels, images, x.data_ptr(), y.data_ptr(), taps.data_ptr(),
        addresses_of(norm), tuple(image), out, tuple(kernel), tuple(stride),
    )  # fmt: skip
    return y, taps


@float32_or(reference.normalise_max_pool2d_backward)
def normalise_max_pool2d_backward(
    grad_y: Tensor,
    y: Tensor,
    taps: Tensor,
    x: Tensor,
    norm: Norm,
    kernel: Pair,
    stride: Pair,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    grad_y, y, taps, x = map(batch_last, (grad_y, y, taps, x))
    images, channels, *image = x.shape
    out = tuple(y.shape[2:])
    grad_x, norm_grads = empty_batch_last(x.shape, x), gradients_of(*norm[:4])
    highest = max(stride[0], image[0] - (out[0] - 1) * stride[0])
    size = sum(aligned(pixels * images * BYTES) for pixels in (out[1], highest * image[1]))
    threads = start_threads()
    backward(
        threads, channels, images, grad_y.data_ptr(), y.data_ptr(), taps.data_ptr(), x.data_ptr(),
        addresses_of(norm), grad_x.data_ptr(), tuple(map(address, norm_grads)), tuple(image), out,
        tuple(kernel), tuple(stride),
        scratch(threads * size), size, streams(grad_x),
    )  # fmt: skip
    return grad_x, *norm_grads
