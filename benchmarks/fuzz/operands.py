"""Operands as plain data: how a tensor, a pattern or a norm is made, in whichever process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gemkern import ops

LAYOUTS = (
    "contiguous", "contiguous", "contiguous", "last", "last", "turned", "channels last", "expanded",
    "stepped", "offset", "overlapping",
)  # fmt: skip
FILLS = (
    "normal",
    "normal",
    "normal",
    "uniform",
    "whole",
    "zeros",
    "nan",
    "infinite",
    "huge",
    "tiny",
)
DTYPES = (
    "float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "int64", "int32", "uint8", "bool",
    "complex64",
)  # fmt: skip
ABSURD = (-1, 0, 2, 3, 7, 2**15 + 1, 2**31, 2**32, 2**62, 2**63, 2**64, -(2**63), 10**30)


class Numbers(NamedTuple):
    """A tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    fill: str = "normal"
    device: str = "cpu"
    seed: int = 0


class Places(NamedTuple):
    """A pattern of a weight; `lies` change its fields, each by its name, a way and a number."""

    shape: tuple[int, ...]
    percent: int = 40
    seed: int = 0
    lies: tuple[tuple[str, str, int], ...] = ()
    device: str = "cpu"


class Statistics(NamedTuple):
    """A norm."""

    mean: Numbers
    var: Numbers
    weight: Numbers | None
    bias: Numbers | None
    eps: float
    residual: Numbers | None
    relu: bool


def made(operand: Any) -> Any:
    """Return the operand that is described; what describes none is one."""
    if isinstance(operand, Numbers):
        return _tensor(operand)
    if isinstance(operand, Places):
        return _pattern(operand)
    if isinstance(operand, Statistics):
        return ops.Norm(*map(made, operand))
    return [made(one) for one in operand] if isinstance(operand, list) else operand


def _tensor(recipe: Numbers) -> Tensor:
    dtype = getattr(torch, recipe.dtype)
    if recipe.device != "cpu":
        return torch.empty(recipe.shape, dtype=dtype, device=recipe.device)
    return _LAID[recipe.layout](_filled(recipe, recipe.shape), recipe.shape).to(dtype)


def _filled(recipe: Numbers, shape: tuple[int, ...]) -> Tensor:
    """Return float32 numbers of a shape, a function of the seed."""
    stream = torch.Generator().manual_seed(recipe.seed)
    if recipe.fill == "uniform":
        return torch.rand(shape, generator=stream)
    found = torch.randn(shape, generator=stream)
    if recipe.fill == "whole":
        return found.mul_(2).round_()
    if recipe.fill in ("zeros", "ones"):
        return found.fill_(float(recipe.fill == "ones"))
    if recipe.fill in ("nan", "infinite"):
        value = math.nan if recipe.fill == "nan" else -math.inf
        return found.masked_fill_(torch.rand(shape, generator=stream) < 0.3, value)
    return found.mul_({"huge": 1e30, "tiny": 1e-40}.get(recipe.fill, 1.0))


def _turned(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    order = tuple(reversed(range(found.dim())))
    return found.permute(order).contiguous().permute(order)


def _expanded(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    return found[:1].expand(shape) if found.numel() else found


def _stepped(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    return found.repeat_interleave(2, -1)[..., ::2] if found.dim() else found


def _offset(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.cat([found.new_ones(1), found.flatten()])[1:].view(shape)


def _overlapping(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not found.numel():
        return found
    room = sum(side - 1 for side in shape) + 1
    return found.flatten()[:room].clone().as_strided(shape, [1] * len(shape))


_LAID: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "contiguous": lambda found, shape: found,
    "last": lambda found, shape: ops.batch_last(found) if found.dim() else found,
    "turned": _turned,
    "channels last": lambda found, shape: (
        found.contiguous(memory_format=torch.channels_last) if found.dim() == 4 else found
    ),
    "expanded": lambda found, shape: _expanded(found, shape) if shape else found,
    "stepped": _stepped,
    "offset": _offset,
    "overlapping": _overlapping,
}


def _pattern(recipe: Places) -> ops.Pattern:
    stream = torch.Generator().manual_seed(recipe.seed)
    active = torch.rand(recipe.shape, generator=stream) < recipe.percent / 100
    found = ops.pattern(active)
    if recipe.device != "cpu":
        tensors = (one.to(recipe.device) for one in found[1:])
        found = ops.Pattern(found.shape, *tensors)
    for name, way, number in recipe.lies:
        found = _lied(found, name, way, number)
    return found


def _lied(found: ops.Pattern, name: str, way: str, number: int) -> ops.Pattern:
    if name == "shape":
        sides = list(found.shape)
        sides[number % len(sides)] = number
        return found._replace(shape=tuple(sides if way != "short" else sides[:-1]))
    tensor = getattr(found, name)
    if way == "short":
        changed = tensor[:-1]
    elif way == "long":
        changed = torch.cat((tensor, tensor[-1:]))
    elif way == "int32":
        changed = tensor.int()
    elif way == "float":
        changed = tensor.double()
    elif way == "flat":
        changed = tensor[None]
    elif way == "backwards":
        changed = tensor.flip(0)
    else:
        changed = tensor.clone()
        if changed.numel():
            changed[number % len(changed)] = max(-(2**63), min(number, 2**63 - 1))
    return found._replace(**{name: changed})
