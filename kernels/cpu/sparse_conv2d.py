"""A two-dimensional convolution by the weights that remain, and its gradients, with Numba.

Operands as in `kernels/reference/sparse_conv2d.py`, float32 on the CPU; the reference serves other
dtypes. What the engine `direct` does not run (`engine_of`) is `norm_sparse_conv2d` without a norm.
Results do not depend on the number of threads, which is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gemkern.kernels import reference
from gemkern.kernels.cpu.engines.choice import DIRECT, engine_of
from gemkern.kernels.cpu.engines.direct import direct
from gemkern.kernels.cpu.engines.direct_products import direct_products
from gemkern.kernels.cpu.lists.entries import lists_of_lines
from gemkern.kernels.cpu.lists.pattern_lists import lists_of
from gemkern.kernels.cpu.machine.layout import batch_last, empty_batch_last
from gemkern.kernels.cpu.machine.serving import address, float32_or
from gemkern.kernels.cpu.machine.streaming import streams
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.cpu.norm_sparse_conv2d import norm_sparse_conv2d, norm_sparse_conv2d_backward
from gemkern.kernels.cpu.walks.lines import lines_of
from gemkern.kernels.geometry import Geometry, Walk, walk_of
from gemkern.kernels.reference.norm_sparse_conv2d import Gradients, NormSparse
from gemkern.kernels.reference.pattern import Pattern
from torch import Tensor


@float32_or(reference.sparse_conv2d)
def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return y, the convolution of x with the remaining weights, plus bias [Co], batch-last."""
    walk = walk_of(x.shape, pattern.shape, geometry)
    if engine_of(walk, alone=True) == DIRECT:
        size = (walk.batch, walk.outputs, walk.out_height, walk.out_width)
        return _direct(x, size, values, pattern, bias, walk, False)
    return norm_sparse_conv2d(x, None, values, pattern, bias, None, False, False, geometry)[0]


@float32_or(reference.sparse_conv2d_input_grad)
def sparse_conv2d_input_grad(
    grad_y: Tensor,
    input_size: Sequence[int],
    values: Tensor,
    pattern: Pattern,
    geometry: Geometry,
) -> Tensor:
    """Return dL/dx of shape `input_size`, batch-last, from dL/dy."""
    walk = walk_of(tuple(input_size), pattern.shape, geometry)
    if engine_of(walk, alone=True) == DIRECT:
        return _direct(grad_y, tuple(input_size), values, pattern, None, walk, True)
    # Of x nothing but its shape is read.
    x = grad_y.new_empty(()).expand(tuple(input_size))
    grad_x = _backward(grad_y, x, values, pattern, True, geometry).x
    assert grad_x is not None
    return grad_x


@float32_or(reference.sparse_conv2d_weight_grad)
def sparse_conv2d_weight_grad(
    grad_y: Tensor,
    x: Tensor,
    pattern: Pattern,
    geometry: Geometry,
) -> Tensor:
    """Return dL/dvalues [nnz] from dL/dy and x."""
    values = x.new_zeros(len(pattern.positions))
    walk = walk_of(x.shape, pattern.shape, geometry)
    if engine_of(walk, alone=True) == DIRECT:
        lines = lines_of(walk, True)
        x, grad_y = batch_last(x), batch_last(grad_y)
        direct_products(
            start_threads(), grad_y.data_ptr(), x.data_ptr(), values.numpy(),
            *lists_of_lines(pattern, walk, True), _every(pattern), lines.sizes, lines.row_runs,
            lines.column_runs, lines.lines, lines.bands,
        )  # fmt: skip
        return values
    grad_values = _backward(grad_y, x, values, pattern, False, geometry).values
    assert grad_values is not None
    return grad_values


def _direct(
    source: Tensor,
    size: tuple[int, ...],
    values: Tensor,
    pattern: Pattern,
    bias: Tensor | None,
    walk: Walk,
    backward: bool,
) -> Tensor:
    """Return what is read from `source`, a tensor of `size`."""
    lines = lines_of(walk, backward)
    source, target = batch_last(source), empty_batch_last(size, source)
    direct(
        start_threads(), source.data_ptr(), target.data_ptr(), address(bias),
        values.detach().numpy(),
        *lists_of_lines(pattern, walk, backward), lines.sizes, lines.row_runs, lines.column_runs,
        lines.lines, streams(target),
    )  # fmt: skip
    return target


def _every(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Return ones and the numbers of the entries, of which `keep_rows` then leaves out none."""
    count = len(pattern.positions)
    return lists_of(pattern, "every", lambda: (np.ones(count, np.float32), np.arange(count)))


def _backward(
    grad_y: Tensor,
    x: Tensor,
    values: Tensor,
    pattern: Pattern,
    wants_x: bool,
    geometry: Geometry,
) -> Gradients:
    """Return the gradient of x, or that of the values."""
    grads = NormSparse(grad_y, None, None, None, None)
    return norm_sparse_conv2d_backward(
        grads, None, None, None, x, None, values, pattern, False, False, wants_x, not wants_x,
        geometry,
    )  # fmt: skip
