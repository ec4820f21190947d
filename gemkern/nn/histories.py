"""The histories of activations, for what looks past `__torch_function__`.

An activation has no memory of its own, and what PyTorch's functions are given are the plain tensors
inside. C++ code, autograd functions and hooks take the activation itself: its history says what its
gradient is worth, by what it was still to be made of when they took it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

PLAIN = frozenset((Tensor, nn.Parameter))


class Kind(NamedTuple):
    """What is known of a tensor that is still to be made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


Remake = Callable[..., Tensor]


def without_values(cls: type[Tensor], kind: Kind) -> Any:
    """Return a tensor of a `kind` that has no memory and no history."""
    return Tensor._make_wrapper_subclass(cls, kind.shape, dtype=kind.dtype, device=kind.device)


class _Promise(Function):
    """What is still to be made."""

    @staticmethod
    def forward(ctx: Any, cls: Any, kind: Kind, remake: Remake, *operands: Any) -> Any:
        _keep(ctx, remake, operands)
        return without_values(cls, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *_gradients(ctx, grad, ctx.needs_input_grad[3:])


class _Change(Function):
    """What is still to be made in another way than before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, remake: Remake, *operands: Any) -> Any:
        _keep(ctx, remake, operands)
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_gradients(ctx, grad, ctx.needs_input_grad[2:])


class _Same(Function):
    """What is made."""

    @staticmethod
    def forward(ctx: Any, cls: Any, kind: Kind, base: Tensor) -> Any:
        return without_values(cls, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, grad


class _Renewed(Function):
    """What was made, and changed or laid out anew since."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, base: Tensor) -> Any:
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _Adopted(Function):
    """The values of an activation that is a result of somebody's autograd function."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, base: Tensor) -> Tensor:
        return base.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


# Where `apply` leads where no transform of functions is active, by a shorter way.
promise: Any = super(Function, _Promise).apply
change: Any = super(Function, _Change).apply
same: Any = super(Function, _Same).apply
renewed: Any = super(Function, _Renewed).apply
adopted: Any = super(Function, _Adopted).apply


def property_of(name: str) -> Any:
    """Return what PyTorch calls to read a property of a tensor."""
    return inspect.getattr_static(Tensor, name).__get__


def version_of(tensor: Tensor) -> int:
    """Return how often a plain tensor was changed in place, as far as that is counted."""
    return -1 if tensor.is_inference() else tensor._version


def _keep(ctx: Any, remake: Remake, operands: Sequence[Any]) -> None:
    """Keep what a tensor is to be made of again; PyTorch watches the plain tensors."""
    ctx.remake = remake
    ctx.save_for_backward(*[one if type(one) in PLAIN else None for one in operands])
    ctx.others = [(place, one, one.edits) for place, one in enumerate(operands) if _watches(one)]


def _watches(operand: Any) -> bool:
    return operand is not None and type(operand) not in PLAIN


def _gradients(ctx: Any, grad: Tensor, needed: Sequence[bool]) -> Iterator[Tensor | None]:
    operands = list(ctx.saved_tensors)
    for place, one, edits in ctx.others:
        if one.edits != edits:
            raise RuntimeError(
                "what an activation of an accelerated model was made of has been modified by an "
                "inplace operation, and a gradient needs it as it was; give it clone()"
            )
        operands[place] = one
    with torch.enable_grad():
        operands = [
            one if one is None else one.detach().requires_grad_(wanted)
            for one, wanted in zip(operands, needed, strict=True)
        ]
        made = ctx.remake(*operands)
    learning = [one for one in operands if one is not None and one.requires_grad]
    gradients = iter(torch.autograd.grad(made, learning, grad, allow_unused=True))
    return (next(gradients) if wanted else None for wanted in needed)
