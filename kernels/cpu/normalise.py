"""A norm by statistics that are known, a residual and ReLU: one pass forward, and one back.

Named and called as `gemkern.kernels.reference.normalise`, float32 on the CPU. The forward pass
reads x and the residual and writes y; the backward pass reads grad_y, y and x and writes grad_x and
grad_residual. A channel is summed in parts of one size, so that a result does not depend on the
number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.compiling import njit
from gemkern.kernels.cpu.layout import batch_last, batch_last_if, empty_batch_last
from gemkern.kernels.cpu.numerics import float_control, set_float_control
from gemkern.kernels.cpu.serving import address, gradients_of, served
from gemkern.kernels.cpu.strip_backward import write_norm_grads
from gemkern.kernels.cpu.strip_forward import (
    BYTES,
    Norm,
    affine,
    norm_and_add,
    norm_of,
    norm_only,
    numbers_of,
)
from gemkern.kernels.cpu.threads import start_threads
from gemkern.kernels.cpu.vector_rows import leading_back
from numba import prange
from torch import Tensor

# Values of a channel that one thread takes at once, and how far ahead of it memory is fetched.
PART = 16384
AHEAD = 2048

to_norm = leading_back(False, False, False, False)
to_residual = leading_back(False, False, True, False)


@njit
def share(channels, parts, thread, threads):
    """Return the parts of channels that a thread works on."""
    tasks = channels * parts
    return range(tasks * thread // threads, tasks * (thread + 1) // threads)


@njit
def place_of(task, parts, size):
    """Return channel and part of a task, where it begins in bytes, and how many values it has."""
    channel, part = divmod(task, parts)
    return channel, part, (channel * size + part * PART) * BYTES, min(PART, size - part * PART)


@njit(cache=True, parallel=True, error_model="numpy")
def forward(threads, channels, size, x, y, of_norm):
    """Write y [channels, size]; x and y are addresses, `of_norm` the fields of the norm."""
    control = float_control()
    norm = Norm(*of_norm)
    table = affine(norm, channels)
    parts = (size + PART - 1) // PART
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        for task in share(channels, parts, thread, threads):
            channel, _, at, count = place_of(task, parts, size)
            numbers = numbers_of(table, channel, norm)
            if norm.residual == 0:
                norm_only((1, count, 0, 0, AHEAD), (x + at, y + at), numbers)
            else:
                norm_and_add((1, count, 0, 0, AHEAD), (x + at, norm.residual + at, y + at), numbers)
        set_float_control(before)


@njit(cache=True, parallel=True, error_model="numpy")
def backward(threads, channels, size, grad_y, y, x, of_norm, grad_x, grad_residual, grad_norm):
    """Write the gradients, of which those of the norm as `write_norm_grads` does."""
    control = float_control()
    norm = Norm(*of_norm)
    table = affine(norm, channels)
    parts = (size + PART - 1) // PART
    sums = np.zeros((parts, channels, 2))
    for thread in prange(threads):
        before = float_control()
        set_float_control(control)
        for task in share(channels, parts, thread, threads):
            channel, part, at, count = place_of(task, parts, size)
            numbers = (table[channel, 0], table[channel, 1], np.float32(norm.least))
            rows = (grad_y + at, y + at, x + at, grad_x + at)
            if grad_residual == 0:
                once, twice = to_norm((1, count, 0, 0, AHEAD), rows, numbers)
            else:
                more = (*rows, grad_residual + at)
                once, twice = to_residual((1, count, 0, 0, AHEAD), more, numbers)
            sums[part, channel, 0], sums[part, channel, 1] = once, twice
        set_float_control(before)
    write_norm_grads(sums, norm, table, grad_norm)


def normalise(
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
) -> Tensor:
    if not served(x, residual, mean, var, weight, bias):
        return reference.normalise(x, residual, mean, var, weight, bias, eps, relu)
    x = batch_last(x)
    residual = batch_last_if(residual)
    y = empty_batch_last(x.shape, x)
    norm = norm_of(mean, var, weight, bias, residual, eps, relu)
    forward(start_threads(), x.shape[1], _size(x), x.data_ptr(), y.data_ptr(), norm)
    return y


def normalise_backward(
    grad_y: Tensor,
    y: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None, Tensor | None]:
    if not served(grad_y, y, x, mean, var, weight, bias):
        return reference.normalise_backward(
            grad_y, y, x, mean, var, weight, bias, eps, relu, has_residual
        )
    x, y, grad_y = batch_last(x), batch_last(y), batch_last(grad_y)
    grad_x = empty_batch_last(x.shape, x)
    grad_residual = empty_batch_last(x.shape, x) if has_residual else None
    norm_grads = gradients_of(mean, var, weight, bias)
    backward(
        start_threads(), x.shape[1], _size(x), grad_y.data_ptr(), y.data_ptr(), x.data_ptr(),
        norm_of(mean, var, weight, bias, None, eps, relu), grad_x.data_ptr(),
        address(grad_residual), tuple(map(address, norm_grads)),
    )  # fmt: skip
    return grad_x, grad_residual, *norm_grads


def _size(x: Tensor) -> int:
    return x.numel() // max(x.shape[1], 1)
