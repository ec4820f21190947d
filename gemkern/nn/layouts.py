"""Functions of activations for which it matters how they lie in memory, and what they lie like.

Activations lie batch-last, where PyTorch's own would be contiguous. What looks at memory, or draws
numbers in its order, finds it as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gemkern.nn.activations import (
    ANSWERS,
    Activation,
    answers,
    in_pytorch,
    known,
    laid_out,
    lay_out,
    plain,
)
from gemkern.nn.histories import property_of

KNOWN = (
    Tensor.dim,
    Tensor.numel,
    Tensor.size,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.__len__,
    *map(
        property_of,
        ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cpu", "_version"),
    ),
)
MEMORY = (Tensor.as_strided, torch.as_strided, Tensor.data_ptr, Tensor.untyped_storage)
# What would lay out its input itself, by a slower copy.
COMPUTE = (
    F.conv2d,
    F.conv_transpose2d,
    F.group_norm,
    F.instance_norm,
    F.interpolate,
    F.layer_norm,
)
LEAVE = (Tensor.detach, property_of("data"))
DRAWS = (
    F.dropout,
    F.alpha_dropout,
    F.rrelu,
    torch.dropout,
    torch.dropout_,
    torch.alpha_dropout,
    torch.bernoulli,
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch.poisson,
    Tensor.bernoulli,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
)


def keep_index(x: Tensor, index: Any) -> Tensor:
    """Return `x[index]`; what slices images leaves them, and their gradient, batch-last."""
    slices = isinstance(index, tuple) and all(isinstance(one, slice) for one in index)
    if not slices or index[0] != slice(None) or not has_layout(x):
        return x[index]
    rest = (*index[1:], *[slice(None)] * (x.dim() - len(index)))
    return x.movedim(0, -1)[(*rest, slice(None))].movedim(-1, 0)


def keep_pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Return `F.pad`, in the batch-last layout where x has it."""
    if mode != "constant" or not has_layout(x):
        return F.pad(x, pad, mode, value)
    of_images = pad[6:] or (0, 0)
    return F.pad(x.movedim(0, -1), (*of_images, *pad[:6]), mode, value).movedim(-1, 0)


def has_layout(x: Tensor) -> bool:
    return x.dim() == 4 and x.shape[0] > 1 and x.stride(0) == 1


def _view(function: Callable[..., Any], value: Any, *arguments: Any, **named: Any) -> Any:
    """Answer for what may view memory as it lies, in PyTorch's layout if it may not in ours."""
    try:
        return in_pytorch(function, (value, *arguments), named)
    except RuntimeError:
        if type(value) is Activation:
            lay_out(value)
        return in_pytorch(function, (value, *arguments), named)


def _look_at_memory(function: Callable[..., Any], value: Any, *arguments: Any, **named: Any) -> Any:
    if type(value) is Activation:
        lay_out(value)
    return in_pytorch(function, (value, *arguments), named)


def _compute(function: Callable[..., Any], value: Any, *arguments: Any, **named: Any) -> Any:
    return in_pytorch(function, (laid_out(value), *arguments), named)


def _draw(function: Callable[..., Any], value: Any, *arguments: Any, **named: Any) -> Any:
    """Answer for what draws numbers in the order of memory: one seed draws what it always drew."""
    base = plain(value)
    if type(value) is not Activation or base.is_contiguous():
        return in_pytorch(function, (value, *arguments), named)
    copy = in_pytorch(Tensor.contiguous, (value,), {})
    before = copy._version
    result = function(copy, *arguments, **named)
    if result is not copy:
        return result
    return value if copy._version == before else in_pytorch(Tensor.copy_, (value, copy), {})


def _leave(function: Callable[..., Any], value: Any, *arguments: Any, **named: Any) -> Any:
    """Answer for what gives a plain tensor of the same memory, in PyTorch's layout if it may."""
    if type(value) is Activation and not value.exposed:
        lay_out(value)
    return in_pytorch(function, (value, *arguments), named)


@answers(property_of("grad_fn"))
def _history(value: Any) -> Any:
    # Somebody's autograd function may have given a history to what had none.
    theirs = value.adopted or not value.made_in[0]
    return known(property_of("grad_fn"), value) if theirs else NotImplemented


ANSWERS.update({one: partial(known, one) for one in KNOWN})
ANSWERS.update({one: partial(_view, one) for one in (Tensor.view, Tensor.view_as)})
ANSWERS.update({one: partial(_look_at_memory, one) for one in MEMORY})
ANSWERS.update({one: partial(_compute, one) for one in COMPUTE})
ANSWERS.update({one: partial(_leave, one) for one in LEAVE})
ANSWERS.update({one: partial(_draw, one) for one in DRAWS})
