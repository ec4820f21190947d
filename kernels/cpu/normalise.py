"""A norm by statistics that are known, a residual and ReLU: one pass forward, and one back.

Named and called as `gemkern.kernels.reference.normalise`, float32 on the CPU. The forward pass
reads x and the residual and writes y; the backward pass reads grad_y, y and x and writes grad_x and
grad_residual. A channel is summed in parts of one size, so that a result does not depend on the
number of threads.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last, batch_last_if
from gemkern.kernels.cpu.loops.norms import (
    NormAddresses,
    addresses_of,
    affine,
    constants_of,
    norm_and_add,
    norm_only,
    write_norm_grads,
)
from gemkern.kernels.cpu.loops.vector_rows import leading_back, one_stretch
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, share_of
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.serving import address, float32_or, gradients_of
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.reference.normalise import Norm
from numba import prange
from torch import Tensor

# Values of a channel that one thread takes at once, and how far ahead of it memory is fetched.
PART = 16384
AHEAD = 2048

to_norm = leading_back(False, False, False, False)
to_residual = leading_back(False, False, True, False)


@njit
def part_of(task, parts, size):
    """Return channel and part of a task, where it begins in bytes, and how many values it has."""
    channel, part = divmod(task, parts)
    return channel, part, (channel * size + part * PART) * BYTES, min(PART, size - part * PART)


@njit(cache=True, parallel=True, error_model="numpy")
def forward(threads, channels, size, x, y, of_norm):
    """Write y [channels, size]; x and y are addresses, `of_norm` the fields of the norm."""
    control = float_control()
    norm = NormAddresses(*of_norm)
    table = affine(norm, channels)
    parts = (size + PART - 1) // PART
    for thread in prange(threads):
        before = adopt(control)
        for task in range(*share_of(channels * parts, thread, threads)):
            channel, _, at, count = part_of(task, parts, size)
            constants = constants_of(table, channel, norm)
            if norm.residual == 0:
                norm_only(one_stretch(count, AHEAD), (x + at, y + at), constants)
            else:
                norm_and_add(
                    one_stretch(count, AHEAD), (x + at, norm.residual + at, y + at), constants
                )
        adopt(before)


@njit(cache=True, parallel=True, error_model="numpy")
def backward(threads, channels, size, grad_y, y, x, of_norm, grad_x, grad_residual, grad_norm):
    """Write the gradients, of which those of the norm as `write_norm_grads` does."""
    control = float_control()
    norm = NormAddresses(*of_norm)
    table = affine(norm, channels)
    parts = (size + PART - 1) // PART
    sums = np.zeros((parts, channels, 2))
    for thread in prange(threads):
        before = adopt(control)
        for task in range(*share_of(channels * parts, thread, threads)):
            channel, part, at, count = part_of(task, parts, size)
            constants = (table[channel, 0], table[channel, 1], np.float32(norm.least))
            rows = (grad_y + at, y + at, x + at, grad_x + at)
            if grad_residual == 0:
                once, twice = to_norm(one_stretch(count, AHEAD), rows, constants)
            else:
                more = (*rows, grad_residual + at)
                once, twice = to_residual(one_stretch(count, AHEAD), more, constants)
            sums[part, channel, 0], sums[part, channel, 1] = once, twice
        adopt(before)
    write_norm_grads(sums, norm, table, grad_norm)


@float32_or(reference.normalise)
def normalise(x: Tensor, norm: Norm) -> Tensor:
    x, norm = batch_last(x), norm._replace(residual=batch_last_if(norm.residual))
    y = empty_batch_last(x.shape, x)
    forward(start_threads(), x.shape[1], _size(x), x.data_ptr(), y.data_ptr(), addresses_of(norm))
    return y


@float32_or(reference.normalise_backward)
def normalise_backward(
    grad_y: Tensor,
    y: Tensor,
    x: Tensor,
    norm: Norm,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None, Tensor | None]:
    x, y, grad_y = batch_last(x), batch_last(y), batch_last(grad_y)
    grad_x = empty_batch_last(x.shape, x)
    grad_residual = empty_batch_last(x.shape, x) if has_residual else None
    norm_grads = gradients_of(*norm[:4])
    backward(
        start_threads(), x.shape[1], _size(x), grad_y.data_ptr(), y.data_ptr(), x.data_ptr(),
        addresses_of(norm), grad_x.data_ptr(), address(grad_residual),
        tuple(map(address, norm_grads)),
    )  # fmt: skip
    return grad_x, grad_residual, *norm_grads


def _size(x: Tensor) -> int:
    return x.numel() // max(x.shape[1], 1)
