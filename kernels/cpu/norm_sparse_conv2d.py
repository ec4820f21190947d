"""A sparse convolution that normalises what it reads and measures what it writes, with Numba.

Operands as in `kernels/reference/norm_sparse_conv2d.py`, float32 on the CPU; the reference serves
other dtypes. Of the activations the forward pass reads x, the residual and what is added, and
writes y and, if it is kept, z. The backward pass reads grad_y, y, x, z if it was kept, and what
gradients x and z have from elsewhere, and writes those of x, of the residual and of what was added.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemkern.kernels import reference
from gemkern.kernels.cpu.layout import batch_last, batch_last_if, empty_batch_last
from gemkern.kernels.cpu.scratch import scratch
from gemkern.kernels.cpu.serving import address, gradients_of, served
from gemkern.kernels.cpu.streaming import streams
from gemkern.kernels.cpu.strip_backward import backward
from gemkern.kernels.cpu.strip_forward import forward, norm_of
from gemkern.kernels.cpu.strip_lists import lists_by_input, lists_by_output
from gemkern.kernels.cpu.strips import TAPS, backward_cut, forward_cut
from gemkern.kernels.cpu.threads import start_threads
from gemkern.kernels.reference.norm_sparse_conv2d import Gradients
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor

Pair = Sequence[int]


def norm_sparse_conv2d(
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    eps: float,
    relu: bool,
    keep: bool,
    moments: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    tensors = (residual, mean, var, norm_weight, norm_bias, values, bias, added)
    if not served(x, *tensors) or pattern.shape[2] > TAPS:
        return reference.norm_sparse_conv2d(
            x, residual, mean, var, norm_weight, norm_bias, values, pattern, bias, added, eps, relu,
            keep, moments, stride, padding, dilation, groups,
        )  # fmt: skip
    x, residual, added = batch_last(x), batch_last_if(residual), batch_last_if(added)
    geometry = (tuple(stride), tuple(padding), tuple(dilation), groups)
    threads = start_threads()
    walk, ring, *strips, size = forward_cut(threads, keep, x.shape, pattern.shape, *geometry)
    y = empty_batch_last((walk.batch, walk.outputs, walk.out_height, walk.out_width), x)
    z = empty_batch_last(x.shape, x) if keep else None
    mean_y, var_y = (x.new_empty(walk.outputs) if moments else None for _ in range(2))
    norm = norm_of(mean, var, norm_weight, norm_bias, residual, eps, relu)
    forward(
        threads, x.data_ptr(), norm, address(z), y.data_ptr(), address(added), address(bias),
        address(mean_y), address(var_y), tuple(walk), tuple(ring), *strips,
        values.detach().contiguous().numpy(), *lists_by_output(pattern, walk, ring),
        scratch(threads * size), size, streams(y),
    )  # fmt: skip
    return y, z, mean_y, var_y


def norm_sparse_conv2d_backward(
    grad_y: Tensor,
    grad_z: Tensor | None,
    grad_mean_y: Tensor | None,
    grad_var_y: Tensor | None,
    grad_skip: Tensor | None,
    y: Tensor | None,
    mean_y: Tensor | None,
    z: Tensor | None,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    values: Tensor,
    pattern: Pattern,
    eps: float,
    relu: bool,
    has_residual: bool,
    has_added: bool,
    wants_x: bool,
    wants_values: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Gradients:
    tensors = (grad_y, grad_z, grad_mean_y, grad_var_y, grad_skip, y, mean_y, z, mean, var)
    if not served(x, *tensors, norm_weight, norm_bias, values) or pattern.shape[2] > TAPS:
        return reference.norm_sparse_conv2d_backward(
            grad_y, grad_z, grad_mean_y, grad_var_y, grad_skip, y, mean_y, z, x, mean, var,
            norm_weight, norm_bias, values, pattern, eps, relu, has_residual, has_added, wants_x,
            wants_values, stride, padding, dilation, groups,
        )  # fmt: skip
    if mean is not None or wants_values:
        x = batch_last(x)
    grad_y, grad_z, grad_skip = batch_last(grad_y), batch_last_if(grad_z), batch_last_if(grad_skip)
    y, z = batch_last_if(y), batch_last_if(z)
    geometry = (tuple(stride), tuple(padding), tuple(dilation), groups)
    threads = start_threads()
    walk, ring, *strips, size = backward_cut(threads, x.shape, pattern.shape, *geometry)
    grad_x = empty_batch_last(x.shape, grad_y) if wants_x else None
    grad_residual = empty_batch_last(x.shape, grad_y) if has_residual else None
    grad_added = None
    if has_added and mean_y is not None:
        grad_added = empty_batch_last(grad_y.shape, grad_y)
    grad_values = grad_y.new_empty(len(pattern.positions) if wants_values else 0)
    norm = (mean, var, norm_weight, norm_bias)
    norm_grads = gradients_of(*(norm if wants_x and mean is not None else (None,) * 4))
    streamed = all(one is None or streams(one) for one in (grad_x, grad_residual))
    of_input = tuple(map(address, (z, grad_z, grad_skip, grad_residual, grad_x)))
    backward(
        threads, grad_y.data_ptr(),
        (address(grad_mean_y), address(grad_var_y), address(mean_y), address(y)),
        address(grad_added), x.data_ptr(), norm_of(*norm, None, eps, relu), (*of_input, streamed),
        grad_values.numpy(), tuple(map(address, norm_grads)), tuple(walk), tuple(ring), *strips,
        values.detach().contiguous().numpy(), *lists_by_input(pattern, walk, ring), wants_values,
        scratch(threads * size), size,
    )  # fmt: skip
    return Gradients(
        grad_x, grad_residual, *norm_grads, grad_values if wants_values else None, grad_added
    )
