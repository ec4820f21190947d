"""What flows between the layers of a rewritten model: tensors, or what a convolution can finish.

A convolution measures what it writes if a norm follows (`Measured`); the norm only notes what is to
be done (`Normed`), and the convolution that reads it does it on the way, or the max pooling that
alone does. Whatever else reads it gets the tensor (`plain`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gemkern import ops
from gemkern.kernels.geometry import Pair, output_image
from gemkern.ops.checks import pair


class Measured:
    """What a convolution wrote, with its mean and variance.

    Args:
        shared: whether more than one node reads it.
    """

    def __init__(self, tensor: Tensor, mean: Tensor, var: Tensor, shared: bool) -> None:
        self.tensor, self.mean, self.var, self.shared = tensor, mean, var, shared


class Normed:
    """A norm that is still to be applied to `source`.

    Args:
        shared: whether more than one node reads it.
    """

    def __init__(self, source: Measured | Tensor, norm: ops.Norm, shared: bool) -> None:
        self.source, self.norm, self.shared = source, norm, shared
        self.made: Tensor | None = None

    def tensor(self) -> Tensor:
        """Return what the norm makes of its source; it is made once."""
        if self.made is None:
            self.made = ops.normalise(plain(self.source), self.norm)
        return self.made


def plain(value: Any) -> Any:
    """Return the tensor that an activation stands for; anything else as it is."""
    if isinstance(value, Measured):
        return value.tensor
    return value.tensor() if isinstance(value, Normed) else value


def convolve(layer: Any, value: Any, added: Any, norm: Any, shared: bool) -> Any:
    """Return layer(value) + added, measured if `norm`, an `nn.BatchNorm2d` that follows, needs it.

    Args:
        layer: a `MaskedConv2d`.
        added: an activation or None.
        norm: or None.
        shared: whether more than one node reads the result.
    """
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    todo = value if isinstance(value, Normed) and value.made is None else None
    x = plain(todo.source if todo else value)
    even = layer.padding_mode == "zeros" and (left, top) == (right, bottom) and x.dim() == 4
    if not layer.is_compressed or not even or x.dtype != layer.weight.dtype:
        y = layer(plain(value))
        return y if added is None else y + plain(added)
    walk = (layer.stride, (top, left), layer.dilation)
    fits = added is None or _fits(layer, x, plain(added), walk)
    source = todo.source if todo and isinstance(todo.source, Measured) else None
    made = ops.norm_sparse_conv2d(
        x,
        layer.remaining_weight(x),
        layer.pattern(),
        layer.bias,
        *walk,
        layer.groups,
        norm=todo.norm if todo else None,
        added=plain(added) if fits else None,
        keep=todo is not None and todo.shared,
        moments=fits and norm is not None and from_batch(norm),
        skip=source is not None and source.shared,
    )
    if todo:
        todo.made = made.z
    if source and made.skip is not None:
        source.tensor = made.skip
    if not fits:
        return made.y + plain(added)
    if made.mean is None or made.var is None:
        return made.y
    return Measured(made.y, made.mean, made.var, shared)


def normalise(
    norm: Any, value: Any, residual: Any, relu: bool, shared: bool, alone: bool = False
) -> Any:
    """Return relu(norm(value) + residual) for an `nn.BatchNorm2d`, whose statistics it moves.

    Args:
        value, residual: activations; the residual may be None.
        shared: whether more than one node reads the result.
        alone: whether no other node moves the statistics: those may then be moved late.
    """
    residual = plain(residual)
    x = plain(value)
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        y = plain(normalise(norm, value, None, False, False, alone)) + residual
        return y.relu() if relu else y
    if from_batch(norm) and not isinstance(value, Measured):
        return _measure_and_normalise(norm, x, residual, relu)
    if isinstance(value, Measured):
        mean, var = value.mean, value.var
        _move_statistics(norm, mean, var, x, alone)
    if not from_batch(norm):
        # Copies: training may move the statistics before the backward pass reads them.
        mean, var = norm.running_mean.clone(), norm.running_var.clone()
    of = ops.Norm(mean, var, norm.weight, norm.bias, norm.eps, residual, relu)
    return Normed(value, of, shared)


def max_pool(pool: Any, value: Any) -> Tensor:
    """Return pool(value) for an `nn.MaxPool2d`, with the norm that `value` waits for, if it can.

    Args:
        value: an activation.
    """
    windows = pair(pool.kernel_size), pair(pool.stride)
    apart = all(size <= step for size, step in zip(*windows, strict=True))
    if apart and pair(pool.padding) == [0, 0] and isinstance(value, Normed):
        alone = value.made is None and not value.shared
        if alone and value.norm.residual is None:
            return ops.normalise_max_pool2d(plain(value.source), value.norm, *windows)
    return ops.max_pool2d(plain(value), *windows, pool.padding)


def from_batch(norm: Any) -> bool:
    """Return whether a norm takes its statistics from the batch."""
    return norm.training or norm.running_mean is None


def _measure_and_normalise(norm: Any, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return ops.batch_norm_relu(
        x,
        residual,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        True,
        norm.momentum,
        norm.eps,
        relu,
    )


@contextmanager
def statistics_moved_at_once() -> Iterator[None]:
    """Move the statistics of a forward pass that may be moved late at its end, in few calls."""
    around, _waiting.moves = _waiting.moves, []
    try:
        yield
        _move(_waiting.moves)
    finally:
        _waiting.moves = around


class _Move(NamedTuple):
    """A norm whose running statistics move to a mean and to a biased variance times `unbias`."""

    norm: Any
    mean: Tensor
    var: Tensor
    unbias: float


class _Waiting(threading.local):
    moves: list[_Move] | None = None


_waiting = _Waiting()


def _move_statistics(norm: Any, mean: Tensor, var: Tensor, x: Tensor, alone: bool) -> None:
    """Move the running statistics of a norm that trains towards those of x, or note to do so."""
    if not norm.training or norm.running_mean is None:
        return
    count = x.numel() // max(x.shape[1], 1)
    move = _Move(norm, mean, var, count / max(count - 1, 1))
    if alone and _waiting.moves is not None:
        _waiting.moves.append(move)
    else:
        _move([move])


@torch.no_grad()
def _move(moves: Sequence[_Move]) -> None:
    if not moves:
        return
    norms, means, variances, unbias = map(list, zip(*moves, strict=True))
    moved = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
    seen = means + list(torch._foreach_mul(variances, unbias))
    torch._foreach_lerp_(moved, seen, 2 * [norm.momentum for norm in norms])
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    if counters:
        torch._foreach_add_(counters, 1)


def _fits(layer: Any, x: Tensor, added: Any, walk: tuple[Pair, Pair, Pair]) -> bool:
    """Return whether `added` has the shape and dtype of layer(x)."""
    image = output_image(x.shape[2:], layer.kernel_size, *walk)
    size = (x.shape[0], layer.out_channels, *image)
    return isinstance(added, Tensor) and (added.shape, added.dtype) == (size, x.dtype)
