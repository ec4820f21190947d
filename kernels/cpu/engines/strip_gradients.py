"""The input of a convolution on the way to its gradient, and the gradient on its way to x."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.engines.strip_results import add_and_write_result, write_result
from gemkern.kernels.cpu.loops.norms import constants_of, copy, norm_only
from gemkern.kernels.cpu.loops.vector_rows import leading_back
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.memory import doubles


class Input(NamedTuple):
    """Where the gradient of the input comes from and goes; addresses of tensors like x, or 0.

    z: the convolution's input, if it was kept; grad_z, grad_skip: gradients that it and x have from
    elsewhere; grad_residual, grad_x: what is written, past the caches if streamed.
    """

    z: int
    grad_z: int
    grad_skip: int
    grad_residual: int
    grad_x: int
    streamed: bool


@njit
def read_input(shape, offset, channel, x, norm, table, inputs, target):
    """Read a row of the convolution's input: as it was kept, or normalised again."""
    if inputs.z:
        copy(shape, (inputs.z + offset, target), ())
    elif norm.mean == 0:
        copy(shape, (x + offset, target), ())
    else:
        norm_only(shape, (x + offset, target), constants_of(table, channel, norm))


def _leader(streamed):
    """Return the function that leads the gradient of a norm's result back through the norm."""
    to_norm = leading_back(False, False, False, streamed)
    to_norm_kept = leading_back(True, False, False, streamed)
    to_norm_skip = leading_back(False, True, False, streamed)
    to_norm_both = leading_back(True, True, False, streamed)
    to_residual = leading_back(False, False, True, streamed)
    to_residual_kept = leading_back(True, False, True, streamed)
    to_residual_skip = leading_back(False, True, True, streamed)
    to_residual_both = leading_back(True, True, True, streamed)

    @njit
    def lead(shape, offset, constants, x, inputs, gradient, result):
        read = (gradient, result, x + offset)
        of_z, skip = (inputs.grad_z + offset,), (inputs.grad_skip + offset,)
        made = (inputs.grad_x + offset,)
        if inputs.grad_residual == 0:
            if inputs.grad_z and inputs.grad_skip:
                return to_norm_both(shape, read + of_z + skip + made, constants)
            if inputs.grad_z:
                return to_norm_kept(shape, read + of_z + made, constants)
            if inputs.grad_skip:
                return to_norm_skip(shape, read + skip + made, constants)
            return to_norm(shape, read + made, constants)
        both = (inputs.grad_x + offset, inputs.grad_residual + offset)
        if inputs.grad_z and inputs.grad_skip:
            return to_residual_both(shape, read + of_z + skip + both, constants)
        if inputs.grad_z:
            return to_residual_kept(shape, read + of_z + both, constants)
        if inputs.grad_skip:
            return to_residual_skip(shape, read + skip + both, constants)
        return to_residual(shape, read + both, constants)

    return lead


lead, lead_past_caches = _leader(False), _leader(True)


@njit
def lead_row_through_norm(shape, offset, channel, x, norm, table, inputs, gradient, result):
    """Write the gradients of x and of the residual; return the sums of the norm.

    `gradient` is that of the norm's result, which lies at `result`.
    """
    constants = (table[channel, 0], table[channel, 1], np.float32(norm.least))
    if inputs.streamed:
        return lead_past_caches(shape, offset, constants, x, inputs, gradient, result)
    return lead(shape, offset, constants, x, inputs, gradient, result)


@njit
def write_grad(shape, offset, channel, x, norm, table, inputs, sums, gradient, result):
    """Write a part of a row of the gradient of the input, led through the norm if there is one."""
    if norm.mean:
        found = doubles(sums + channel * 16, 2)
        once, twice = lead_row_through_norm(shape, offset, channel, x, norm, table, inputs,
                                            gradient, result)  # fmt: skip
        found[0] += once
        found[1] += twice
    elif inputs.grad_z:
        add_and_write_result(shape, gradient, inputs.grad_z + offset, inputs.grad_x + offset,
                             inputs.streamed)  # fmt: skip
    else:
        write_result(shape, gradient, inputs.grad_x + offset, inputs.streamed)
