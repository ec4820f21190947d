"""Batch norm, a residual and ReLU, channel by channel: a channel is one stretch of memory.

Named and called as `gemkern.kernels.reference.batch_norm_relu`. Of the activation, the forward pass
reads x twice and the residual once, and writes y; where a channel of it fits the cache, the second
read comes from there. The backward pass reads x twice and grad_y once, and writes grad_x; what the
ReLU let through of grad_y lies in grad_x meanwhile. With a residual and a ReLU it also reads y, and
writes grad_residual, where that lies then.

Sums are of blocks, in float32, and of those in float64. Channels are shared out among threads; a
result does not depend on how many there are.
"""

from __future__ import annotations

import math

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last, batch_last_if
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, share_of
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.memory import floats
from gemkern.kernels.cpu.machine.moments import merged
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.serving import address, float32_or, gradients_of
from gemkern.kernels.cpu.machine.threads import start_threads
from numba import prange
from torch import Tensor

# Values that are summed in float32; they stay in the first cache while their mean is found.
BLOCK = 4096


# Only sums may be reordered, so that their lanes are added up at the end.
@njit(cache=True, fastmath={"reassoc"})
def total(values):
    """Return the sum of float32 [n] in float32."""
    result = values.dtype.type(0)
    for i in range(values.size):
        result += values[i]
    return result


@njit(cache=True, fastmath={"reassoc"})
def deviations(values, centre):
    """Return the sums of value - centre and of its square, in float32."""
    once = values.dtype.type(0)
    twice = values.dtype.type(0)
    for i in range(values.size):
        away = values[i] - centre
        once += away
        twice += away * away
    return once, twice


@njit(cache=True, fastmath={"reassoc"})
def products(g, x, mean):
    """Return the sums of g and of g * (x - mean), in float32."""
    once = x.dtype.type(0)
    twice = x.dtype.type(0)
    for i in range(x.size):
        once += g[i]
        twice += g[i] * (x[i] - mean)
    return once, twice


@njit(cache=True, error_model="numpy")
def moments(values):
    """Return mean and (biased) variance of float32 [n], in float64; NaN of nothing."""
    if not values.size:
        return np.nan, np.nan
    count, mean, spread = 0.0, 0.0, 0.0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        size = float(block.size)
        # A mean near enough: what it lacks is the mean of what is left.
        centre = values.dtype.type(total(block) / size)
        once, twice = deviations(block, centre)
        count, mean, spread = merged(count, mean, spread, size, float(centre), once, twice)
    return mean, spread / count


@njit(cache=True)
def normalise(x, residual, y, mean, scale, bias, has_residual, relu):
    """Write (x - mean) * scale + bias + residual, or 0 where that is less, to y."""
    zero = x.dtype.type(0)
    if has_residual:
        for i in range(x.size):
            value = (x[i] - mean) * scale + bias + residual[i]
            y[i] = zero if relu and value <= zero else value
    else:
        for i in range(x.size):
            value = (x[i] - mean) * scale + bias
            y[i] = zero if relu and value <= zero else value


@njit(cache=True, parallel=True, error_model="numpy")
def forward(
    threads, channels, size, x, residual, y, weight, bias, running_mean, running_var, mean, invstd,
    training, momentum, eps, relu,
):  # fmt: skip
    """Norm, add and ReLU; the names of tensors are addresses, 0 for what is not there."""
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for channel in range(*share_of(channels, thread, threads)):
            at = BYTES * channel * size
            forward_channel(
                channel, channels, floats(x + at, size), floats(residual + at, size),
                floats(y + at, size), weight, bias, running_mean, running_var, mean, invstd,
                residual != 0, training, momentum, eps, relu,
            )  # fmt: skip
        adopt(before)


@njit(cache=True, error_model="numpy")
def forward_channel(
    channel, channels, x, residual, y, weight, bias, running_mean, running_var, mean, invstd,
    has_residual, training, momentum, eps, relu,
):  # fmt: skip
    real = x.dtype.type
    if training:
        centre, variance = moments(x)
        if running_mean and x.size:
            move(floats(running_mean, channels), channel, centre, momentum)
        if running_var and x.size:
            unbiased = variance * (x.size / max(x.size - 1, 1))
            move(floats(running_var, channels), channel, unbiased, momentum)
    else:
        centre = float(floats(running_mean, channels)[channel])
        variance = float(floats(running_var, channels)[channel])
    inverse = 1.0 / math.sqrt(variance + eps)
    floats(mean, channels)[channel] = centre
    floats(invstd, channels)[channel] = inverse
    scale, shift = affine(channel, channels, real(inverse), weight, bias)
    normalise(x, residual, y, real(centre), scale, shift, has_residual, relu)


@njit(cache=True)
def affine(channel, channels, invstd, weight, bias):
    """Return by what a channel is multiplied, and what is added then, in float32."""
    scale, shift = invstd, np.float32(0)
    if weight:
        scale = invstd * floats(weight, channels)[channel]
    if bias:
        shift = floats(bias, channels)[channel]
    return scale, shift


@njit(cache=True)
def move(running, channel, batch, momentum):
    running[channel] = (1 - momentum) * running[channel] + momentum * batch


@njit(cache=True)
def gate_by_result(grad_y, y, g):
    """Write grad_y to g where the ReLU let something through, and 0 elsewhere."""
    zero = g.dtype.type(0)
    for i in range(g.size):
        g[i] = zero if y[i] <= zero else grad_y[i]


@njit(cache=True)
def gate(grad_y, x, mean, scale, shift, g):
    """As `gate_by_result`, of a result that is computed from x as `normalise` does."""
    zero = g.dtype.type(0)
    for i in range(g.size):
        g[i] = zero if (x[i] - mean) * scale + shift <= zero else grad_y[i]


@njit(cache=True)
def input_grad(g, x, mean, scale, constant, slope, grad_x):
    """Write g * scale - constant - (x - mean) * slope to grad_x."""
    for i in range(g.size):
        grad_x[i] = g[i] * scale - constant - (x[i] - mean) * slope


@njit(cache=True)
def scaled(g, scale, grad_x):
    """Write g * scale to grad_x."""
    for i in range(g.size):
        grad_x[i] = g[i] * scale


@njit(cache=True, parallel=True, error_model="numpy")
def backward(
    threads, channels, size, grad_y, x, y, weight, bias, mean, invstd, grad_x, g, grad_weight,
    grad_bias, training, relu,
):  # fmt: skip
    """Write the gradients; the names of tensors are addresses, 0 for what is not there.

    `g` is where the gradient behind the ReLU lies: in grad_residual, grad_x or, without a ReLU,
    grad_y.
    """
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for channel in range(*share_of(channels, thread, threads)):
            at = BYTES * channel * size
            backward_channel(
                channel, channels, floats(grad_y + at, size), floats(x + at, size),
                floats(y + at, size), weight, bias, mean, invstd, floats(grad_x + at, size),
                floats(g + at, size), grad_weight, grad_bias, training, relu, y != 0,
            )  # fmt: skip
        adopt(before)


@njit(cache=True, error_model="numpy")
def backward_channel(
    channel, channels, grad_y, x, y, weight, bias, mean, invstd, grad_x, g, grad_weight, grad_bias,
    training, relu, has_y,
):  # fmt: skip
    centre, inverse = floats(mean, channels)[channel], floats(invstd, channels)[channel]
    scale, shift = affine(channel, channels, inverse, weight, bias)
    sum_g, sum_gx = 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        part = slice(start, start + BLOCK)
        if relu and has_y:
            gate_by_result(grad_y[part], y[part], g[part])
        elif relu:
            gate(grad_y[part], x[part], centre, scale, shift, g[part])
        once, twice = products(g[part], x[part], centre)
        sum_g += once
        sum_gx += twice
    if grad_weight:
        floats(grad_weight, channels)[channel] = sum_gx * inverse if x.size else 0.0
    if grad_bias:
        floats(grad_bias, channels)[channel] = sum_g
    if training:
        constant = np.float32(scale * sum_g / x.size)
        slope = np.float32(scale * sum_gx / x.size * inverse * inverse)
        input_grad(g, x, centre, scale, constant, slope, grad_x)
    else:
        scaled(g, scale, grad_x)


@float32_or(reference.batch_norm_relu)
def batch_norm_relu(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, residual = batch_last(x), batch_last_if(residual)
    y = empty_batch_last(x.shape, x)
    mean, invstd = (x.new_empty(x.shape[1]) for _ in range(2))
    forward(
        start_threads(), x.shape[1], _size(x), x.data_ptr(), address(residual),
        y.data_ptr(), address(weight), address(bias), address(running_mean),
        address(running_var), mean.data_ptr(), invstd.data_ptr(), training, float(momentum),
        float(eps), relu,
    )  # fmt: skip
    return y, mean, invstd


@float32_or(reference.batch_norm_relu_backward)
def batch_norm_relu_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    relu: bool,
    has_residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    y = y if relu and has_residual else None
    x, grad_y, y = batch_last(x), batch_last(grad_y), batch_last_if(y)
    grad_x = empty_batch_last(x.shape, x)
    grad_residual = None if y is None else empty_batch_last(x.shape, x)
    grad_weight, grad_bias = gradients_of(weight, bias)
    g = grad_x if grad_residual is None else grad_residual
    backward(
        start_threads(), x.shape[1], _size(x), grad_y.data_ptr(), x.data_ptr(), address(y),
        address(weight), address(bias), mean.data_ptr(), invstd.data_ptr(), grad_x.data_ptr(),
        (g if relu else grad_y).data_ptr(), address(grad_weight), address(grad_bias), training,
        relu,
    )  # fmt: skip
    return grad_x, grad_residual, grad_weight, grad_bias


def _size(x: Tensor) -> int:
    return x.numel() // max(x.shape[1], 1)
