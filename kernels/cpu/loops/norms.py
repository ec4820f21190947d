"""What a norm does on the way: tables of its channels, rows read through it, and its gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.loops.vector_rows import reading
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.memory import floats
from gemkern.kernels.cpu.machine.serving import address
from gemkern.kernels.reference.normalise import Norm

# Whether there is a norm, and a residual.
KINDS = ((False, False), (True, False), (True, True))


copy, norm_only, norm_and_add = (reading(*which, False) for which in KINDS)
copy_keep, norm_keep, norm_and_add_keep = (reading(*which, True) for which in KINDS)


class NormAddresses(NamedTuple):
    """What makes the input of a convolution of x; addresses of float32, 0 for what is not there.

    mean, var, weight, bias: [channels]; without a mean the input is x itself. residual: as x.
    least: 0 with a ReLU, else NaN, which nothing is below.
    """

    mean: int
    var: int
    weight: int
    bias: int
    residual: int
    eps: float
    least: float


def addresses_of(norm: Norm | None) -> tuple[int | float, ...]:
    """Return the fields of `NormAddresses`: to hand Numba a tuple with names takes longer."""
    if norm is None:
        return 0, 0, 0, 0, 0, 0.0, math.nan
    mean, var, weight, bias, eps, residual, relu = norm
    tensors = (mean, var, weight, bias, residual)
    return *map(address, tensors), float(eps), 0.0 if relu else math.nan


@njit(cache=True)
def affine(norm, channels):
    """Return float32 [channels, 4]: mean, scale, shift and 1 / sqrt(var + eps) of each channel."""
    table = np.empty((channels, 4), np.float32)
    if norm.mean == 0:
        return table
    for channel in range(channels):
        inverse = 1.0 / math.sqrt(floats(norm.var, channels)[channel] + norm.eps)
        weight = floats(norm.weight, channels)[channel] if norm.weight else np.float32(1)
        table[channel, 0] = floats(norm.mean, channels)[channel]
        table[channel, 1] = inverse * weight
        table[channel, 2] = floats(norm.bias, channels)[channel] if norm.bias else np.float32(0)
        table[channel, 3] = inverse
    return table


@njit
def constants_of(table, channel, norm):
    """Return mean, scale, shift and least of a channel."""
    return table[channel, 0], table[channel, 1], table[channel, 2], np.float32(norm.least)


@njit
def write_norm_grads(sums, norm, table, grad_norm):
    """Write the gradients of mean, variance, weight and bias from sums [parts, channels, 2].

    grad_norm: their addresses, 0 where one is not wanted.
    """
    channels = sums.shape[1]
    for channel in range(channels):
        once, twice = 0.0, 0.0
        for part in range(len(sums)):
            once += sums[part, channel, 0]
            twice += sums[part, channel, 1]
        scale, inverse = table[channel, 1], table[channel, 3]
        made = (-once * scale, -0.5 * twice * scale * inverse * inverse, twice * inverse, once)
        for which in range(4):
            if grad_norm[which]:
                floats(grad_norm[which], channels)[channel] = made[which]
