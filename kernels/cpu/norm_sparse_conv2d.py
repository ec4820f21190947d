"""A sparse convolution that normalises what it reads and measures what it writes, with Numba.

Named and called as `gemkern.kernels.reference.norm_sparse_conv2d`, float32 on the CPU. Of the
activations the forward pass reads x, the residual and what is added, and writes y and, if it is
kept, z. The backward pass reads grad_y, y, x, z if it was kept, and what gradients x and z have
from elsewhere, and writes those of x, of the residual and of what was added.
"""

from __future__ import annotations

import math

from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last, batch_last_if
from gemkern.kernels.cpu.engines.strip_backward import backward
from gemkern.kernels.cpu.engines.strip_forward import forward
from gemkern.kernels.cpu.lists.entries import lists_of_ring
from gemkern.kernels.cpu.loops.norms import addresses_of
from gemkern.kernels.cpu.machine.lanes import KERNEL_ROWS
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.kernels.cpu.machine.scratch import scratch
from gemkern.kernels.cpu.machine.serving import address, float32_or, gradients_of
from gemkern.kernels.cpu.machine.streaming import streams
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.cpu.walks.strips import backward_cut, forward_cut, walked
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import Gradients, NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor


@float32_or(reference.norm_sparse_conv2d)
def norm_sparse_conv2d(
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    added: Tensor | None,
    keep: bool,
    moments: bool,
    geometry: Geometry,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    threads = start_threads()
    walk, size = walked(x.shape, pattern.shape, geometry)
    if walk.kernel_height > KERNEL_ROWS:
        return reference.norm_sparse_conv2d(
            x, norm, values, pattern, bias, added, keep, moments, geometry
        )
    x, added = batch_last(x), batch_last_if(added)
    if norm is not None and norm.residual is not None:
        norm = norm._replace(residual=batch_last(norm.residual))
    cut = forward_cut(threads, keep, pattern, walk)
    y = empty_batch_last(size, x)
    z = empty_batch_last(x.shape, x) if keep else None
    mean_y, var_y = (x.new_empty(walk.outputs) if moments else None for _ in range(2))
    forward(
        threads, x.data_ptr(), addresses_of(norm), address(z), y.data_ptr(), address(added),
        address(bias), address(mean_y), address(var_y), tuple(walk), tuple(cut.ring), cut.layout,
        cut.stretches, cut.offsets, cut.strips, cut.begins, values.detach().numpy(),
        *lists_of_ring(pattern, walk, cut.ring, False, cut.blocks),
        scratch(threads * cut.working), cut.working, streams(y),
    )  # fmt: skip
    if y.numel() == 0 and mean_y is not None and var_y is not None:
        # Nothing has no mean.
        mean_y.fill_(math.nan)
        var_y.fill_(math.nan)
    return y, z, mean_y, var_y


@float32_or(reference.norm_sparse_conv2d_backward)
def norm_sparse_conv2d_backward(
    grads: NormSparse,
    y: Tensor | None,
    mean_y: Tensor | None,
    z: Tensor | None,
    x: Tensor,
    norm: Norm | None,
    values: Tensor,
    pattern: Pattern,
    has_residual: bool,
    has_added: bool,
    wants_x: bool,
    wants_values: bool,
    geometry: Geometry,
) -> Gradients:
    threads = start_threads()
    walk, _ = walked(x.shape, pattern.shape, geometry)
    if walk.kernel_height > KERNEL_ROWS:
        return reference.norm_sparse_conv2d_backward(
            grads, y, mean_y, z, x, norm, values, pattern, has_residual, has_added, wants_x,
            wants_values, geometry,
        )  # fmt: skip
    cut = backward_cut(threads, pattern, walk)
    if norm is not None or wants_values:
        x = batch_last(x)
    grad_y, grad_z, grad_skip = map(batch_last_if, (grads.y, grads.z, grads.skip))
    y, z = batch_last_if(y), batch_last_if(z)
    grad_x = empty_batch_last(x.shape, grad_y) if wants_x else None
    grad_residual = empty_batch_last(x.shape, grad_y) if has_residual else None
    grad_added = None
    if has_added and mean_y is not None:
        grad_added = empty_batch_last(grad_y.shape, grad_y)
    grad_values = grad_y.new_empty(len(pattern.positions) if wants_values else 0)
    norm_grads = gradients_of(*(norm[:4] if wants_x and norm is not None else (None,) * 4))
    streamed = all(one is None or streams(one) for one in (grad_x, grad_residual))
    of_input = tuple(map(address, (z, grad_z, grad_skip, grad_residual, grad_x)))
    backward(
        threads, grad_y.data_ptr(), tuple(map(address, (grads.mean, grads.var, mean_y, y))),
        address(grad_added), x.data_ptr(), addresses_of(norm), (*of_input, streamed),
        grad_values.numpy(), tuple(map(address, norm_grads)), tuple(walk), tuple(cut.ring),
        cut.layout, cut.stretches, cut.phases, cut.offsets, cut.strips, cut.begins,
        values.detach().numpy(), *lists_of_ring(pattern, walk, cut.ring, True, cut.blocks),
        wants_values,
        scratch(threads * cut.working), cut.working,
    )  # fmt: skip
    return Gradients(
        grad_x, grad_residual, *norm_grads, grad_values if wants_values else None, grad_added
    )
