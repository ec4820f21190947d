"""What the sparse kernels answer: compressed convolutions, and functions of their activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gemkern import ops
from gemkern.kernels.geometry import Geometry, Pair, output_image
from gemkern.nn.activations import (
    Activation,
    answers,
    change,
    held,
    in_pytorch,
    open_todo,
    pending,
    plain,
    read,
    real,
)
from gemkern.nn.histories import Kind, version_of
from gemkern.nn.layouts import has_layout, keep_index, keep_pad
from gemkern.nn.modes import mode, waiting_allowed
from gemkern.nn.pending import (
    Convolution,
    Normalisation,
    Pixels,
    moments_of,
)
from gemkern.nn.todo import Habit, Moments
from gemkern.ops.checks import LARGEST_WINDOW, autocasts, pair

OVER_PIXELS = ((2, 3), [2, 3], (-2, -1), [-2, -1], (-1, -2), [-1, -2], (3, 2), [3, 2])


def convolve(layer: Any, x: Any) -> Tensor:
    """Return layer(x) for a compressed `MaskedConv2d`: an activation, run when it is read."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    even = layer.padding_mode == "zeros" and left == right and top == bottom
    seen = x.kind if type(x) is Activation else x
    if not even or not _unwatched(seen, layer):
        return layer.plain_forward(plain(x))
    geometry = Geometry(layer.stride, (top, left), layer.dilation, layer.groups)
    todo = Convolution(layer, x, geometry, layer.remaining_weight(x))
    habit = habit_of(layer)
    if waiting_allowed() and type(x) is Activation:
        images, _, *image = seen.shape
        size = (images, layer.out_channels, *output_image(image, layer.kernel_size, *geometry[:3]))
        if min(size) > 0:
            kind = Kind(size, seen.dtype, seen.device)
            return pending(todo, kind, habit, todo.remake, *todo.parts())
    made = todo.made(layer.training and habit.measures and waiting_allowed())
    return held(made.y, habit, moments_of(made))


def _unwatched(x: Any, layer: Any) -> bool:
    """Return whether x is images that nobody watches on their way through kernels."""
    return (
        type(x) in (Tensor, Kind)
        and len(x.shape) == 4
        and x.dtype == layer.weight.dtype
        and not torch.compiler.is_compiling()
        and not autocasts(x.device.type)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def habit_of(layer: Any) -> Habit:
    """Return what `layer` has learnt; no copy of the layer knows it."""
    if layer.habit is None:
        layer.habit = Habit()
    return layer.habit


@answers(F.batch_norm)
def _batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    learning = (weight, bias, running_mean, running_var)
    if type(x) is not Activation or not _serves_norm(x.kind, learning, training):
        return NotImplemented
    base = real(x, moments=training)
    moments = x.moments
    if moments is not None and moments.version != version_of(base):
        moments = None
    if (training and moments is None) or not waiting_allowed():
        x.habit.measures = True
        # As PyTorch's own, a change of statistics that no version counts.
        mean, var = (None if one is None else one.data for one in (running_mean, running_var))
        y = ops.batch_norm_relu(
            base, None, weight, bias, mean, var, training, momentum, eps, relu=False
        )
        return held(y)
    if moments is not None and training:
        mean, var, _ = moments
        x.normed = True
        if running_mean is not None:
            _move_statistics(running_mean, running_var, moments, momentum, x.kind)
    else:
        # Copies: training may move the statistics before they are read.
        mean, var = running_mean.clone(), running_var.clone()
    norm = ops.Norm(mean, var, weight, bias, eps, None, False)
    todo = Normalisation(x, norm)
    return pending(todo, x.kind, x.habit, todo.remake, *todo.parts())


def _serves_norm(x: Kind, learning: Sequence[Any], training: bool) -> bool:
    if len(x.shape) != 4 or x.shape[0] * x.shape[2] * x.shape[3] < 2:
        return False
    if not training and learning[-1] is None:
        return False
    channels = x.shape[1:2]
    for one in learning:
        if one is None:
            continue
        if type(one) is Activation or one.dtype != x.dtype or one.shape != channels:
            return False
    return True


def _move_statistics(
    running_mean: Tensor, running_var: Tensor, moments: Moments, momentum: float, x: Kind
) -> None:
    images, _, height, width = x.shape
    count = images * height * width
    seen = [moments.mean.detach(), moments.var.detach() * (count / (count - 1))]
    torch._foreach_lerp_([running_mean.data, running_var.data], seen, momentum)


@answers(F.relu, torch.relu, Tensor.relu)
def _relu(input: Any, inplace: bool = False) -> Any:
    todo = _with_relu(input)
    if todo is None:
        return NotImplemented
    if inplace:
        return change(input, todo)
    return pending(todo, input.kind, input.habit, torch.relu, input)


@answers(F.relu_, torch.relu_, Tensor.relu_)
def _relu_in_place(input: Any) -> Any:
    return _relu(input, inplace=True)


@answers(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def _add(input: Any, other: Any, *, alpha: Any = 1, out: Any = None) -> Any:
    for value, added in ((input, other), (other, input)):
        todo = None if alpha != 1 or out is not None else _with_added(value, added)
        if todo is not None:
            given = pending(todo, value.kind, value.habit, torch.add, value, added)
            return _unless_unseen(given, added)
    return NotImplemented


@answers(Tensor.add_, Tensor.__iadd__)
def _add_in_place(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    todo = _with_added(input, other) if alpha == 1 else None
    return NotImplemented if todo is None else _unless_unseen(change(input, todo), other)


@answers(F.max_pool2d, torch.max_pool2d)
def _max_pool(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    other = ceil_mode or return_indices or pair(dilation) != [1, 1]
    if other or not _pools(input, kernel_size):
        return NotImplemented
    windows = pair(kernel_size), pair(stride or kernel_size)
    apart = all(size <= step for size, step in zip(*windows, strict=True))
    todo = open_todo(input)
    alone = not input.habit.keeps and not input.reads
    if alone and apart and pair(padding) == [0, 0] and isinstance(todo, Normalisation):
        todo.check_unchanged()
        if todo.norm.residual is None:
            input.reads, input.passed = 1, True
            return held(ops.normalise_max_pool2d(todo.source.tensor, todo.norm, *windows))
    return held(ops.max_pool2d(read(input), *windows, padding))


@answers(F.avg_pool2d)
def _average_pool(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    if ceil_mode or divisor_override is not None or not _pools(input, kernel_size):
        return NotImplemented
    stride = stride or kernel_size
    return held(ops.average_pool2d(read(input), kernel_size, stride, padding, count_include_pad))


@answers(torch.mean, Tensor.mean)
def _mean(input: Any, dim: Any = None, keepdim: bool = False, **named: Any) -> Any:
    if dim not in OVER_PIXELS or named or type(input) is not Activation:
        return NotImplemented
    x = read(input)
    if not has_layout(x):
        return NotImplemented
    # Contiguous, as PyTorch's: what follows may view it, or draw in its order.
    means = x.movedim(0, -1).flatten(1, 2).mean(1).T.contiguous()
    return means[:, :, None, None] if keepdim else means


@answers(F.adaptive_avg_pool2d)
def _adaptive_average_pool(input: Any, output_size: Any) -> Any:
    return _mean(input, (2, 3), True) if output_size in (1, (1, 1), [1, 1]) else NotImplemented


@answers(Tensor.__getitem__)
def _index(value: Any, index: Any) -> Any:
    stride = _steps(index)
    if type(value) is not Activation or len(value.kind.shape) != 4:
        return NotImplemented
    if stride is None or value.made_in != mode() or not waiting_allowed():
        return in_pytorch(keep_index, (value, index), {})
    images, channels, *image = value.kind.shape
    shorter = [-(-length // step) for length, step in zip(image, stride, strict=True)]
    kind = value.kind._replace(shape=(images, channels, *shorter))
    todo = Pixels(value, index, stride)
    return pending(todo, kind, Habit(), todo.remake, value)


@answers(F.pad)
def _pad(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    todo = open_todo(input)
    channels = _padded_channels(pad, mode, value)
    if isinstance(todo, Pixels) and channels is not None:
        x = read(todo.value)
        if has_layout(x):
            return held(ops.padded_shortcut(x, todo.stride, *channels))
    return in_pytorch(keep_pad, (input, pad, mode, value), {})


def _unless_unseen(value: Activation, operand: Any) -> Activation:
    """Make `value` now if it waits for a tensor that anybody may change."""
    if type(operand) is not Activation:
        real(value)
    return value


def _with_relu(value: Any) -> Normalisation | None:
    """Return what is to be done to `value`, with a ReLU behind it; None if that is no one thing."""
    todo = open_todo(value)
    if not isinstance(todo, Normalisation) or todo.norm.relu:
        return None
    return Normalisation(todo.source, todo.norm._replace(relu=True))


def _with_added(value: Any, added: Any) -> Normalisation | Convolution | None:
    """Return what is to be done to `value`, with a sum behind it; None if that is no one thing."""
    todo = open_todo(value)
    if todo is None or not isinstance(added, Tensor):
        return None
    seen = added.kind if type(added) is Activation else added
    if seen.shape != value.kind.shape or seen.dtype != value.kind.dtype:
        return None
    if isinstance(todo, Convolution):
        return todo.plus(added) if todo.added is None else None
    if not isinstance(todo, Normalisation) or todo.norm.relu or todo.norm.residual is not None:
        return None
    return Normalisation(todo.source, todo.norm._replace(residual=added))


def _pools(value: Any, kernel_size: Any) -> bool:
    if type(value) is not Activation or len(value.kind.shape) != 4:
        return False
    return math.prod(pair(kernel_size)) <= LARGEST_WINDOW


def _steps(index: Any) -> Pair | None:
    """Return the steps of an index `[:, :, ::rows, ::columns]`, None of another."""
    if not isinstance(index, tuple) or not all(isinstance(one, slice) for one in index):
        return None
    steps = [1 if one.step is None else one.step for one in index]
    whole = all(one.start is None and one.stop is None for one in index)
    if not whole or len(steps) != 4 or steps[:2] != [1, 1] or not _counts(steps, 1):
        return None
    return steps[2], steps[3]


def _padded_channels(pad: Any, mode: Any, value: Any) -> Pair | None:
    """Return how many channels of zeros `F.pad` puts before and after, None if it does more."""
    zeros = mode == "constant" and value in (None, 0)
    if not zeros or not isinstance(pad, Sequence) or len(pad) != 6 or not _counts(pad, 0):
        return None
    return (pad[4], pad[5]) if not any(pad[:4]) else None


def _counts(numbers: Sequence[Any], least: int) -> bool:
    return all(isinstance(number, int) and number >= least for number in numbers)
