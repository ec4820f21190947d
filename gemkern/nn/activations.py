"""What flows between the layers of an accelerated model: tensors that may still be to be made.

An `Activation` is a tensor for whoever asks. Inside it is either made (`base` holds its values), or
something is still to be done (`todo`): a convolution to be run, a norm, a residual and a ReLU to be
applied, pixels to be taken. What the sparse kernels can do on the way they do when they read it
(`gemkern.nn.answers`); for everything else it is made, once, and PyTorch's own function runs.

Whatever is still to be done reads its operands later than the model's code did, so an operand is
made known to them: before it may change, all that wait for it are made (`make_dependents`), and
nothing waits for a tensor that could be changed unseen (`exposed`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn import histories
from gemkern.nn.containers import found, mapped
from gemkern.nn.histories import Kind, Remake, property_of, version_of, without_values
from gemkern.nn.modes import Mode, as_it_was, mode, waiting_allowed
from gemkern.nn.todo import Habit, Moments, Todo

# What gives leaves of the graph, and gradients.
GIVE_PLAIN: frozenset[Any] = frozenset(
    (
        torch.autograd.grad,
        Tensor.detach,
        Tensor.requires_grad_,
        property_of("data"),
        property_of("grad"),
    )
)
# What asks for gradients at a place that a convolution may have passed by.
OF_GRADIENTS = frozenset(
    (
        Tensor.register_hook,
        Tensor.retain_grad,
        Tensor.register_post_accumulate_grad_hook,
    )
)
# Results that share no memory with anything.
PLAIN_RESULTS = (bool, int, float, complex, str, torch.Size, torch.dtype, torch.device)

ANSWERS: dict[Callable[..., Any], Callable[..., Any]] = {}


def answers(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let the function below answer for `functions`, with their arguments."""

    def note(answer: Callable[..., Any]) -> Callable[..., Any]:
        ANSWERS.update(dict.fromkeys(functions, answer))
        return answer

    return note


class Activation(Tensor):
    """A tensor between the layers of an accelerated model.

    Attributes:
        kind: its shape, dtype and device.
        todo: how it is to be made; None once it is.
        base: a plain tensor with the values, or None.
        tensor: what to read in its place: where a kernel let `base` through, what came out.
        moments: of its channels, or None.
        made_in: whether gradients and inference mode were on when the model made it.
        edits: how often it was changed in place.
        changes: how often its history changed with it here.
        suspect: whether somebody's autograd function may have given it a history.
        adopted: whether it has a history of somebody's autograd function.
        exposed: whether its memory can be changed unseen.
        family: those of the same memory, itself as well, or None.
        passed: whether a convolution read it without making it.
        reads: how often it was read.
        normed: whether a norm by its moments was.
        habit: of the layer that it comes from.
        dependents: what waits to read it, or None.
    """

    kind: Kind
    todo: Todo | None = None
    base: Any = None
    tensor: Any = None
    moments: Moments | None = None
    made_in: Mode
    edits = 0
    changes = 0
    suspect = False
    adopted = False
    exposed = False
    family: list[weakref.ref[Activation]] | None = None
    passed = False
    reads = 0
    normed = False
    habit: Habit
    dependents: list[weakref.ref[Activation]] | None = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = ANSWERS.get(func)
        if answer is not None:
            given = answer(*args, **kwargs) if kwargs else answer(*args)
            if given is not NotImplemented:
                return given
        return in_pytorch(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Code that knows no __torch_function__ comes here, its gradients recorded by now.
        if func._schema.is_mutable:
            raise GemkernError(
                f"{func} would change an activation of an accelerated model from outside Python: "
                "give it a copy (clone()), or gemkern.decelerate the model"
            )

        def read(value: Any) -> Any:
            if type(value) is not Activation:
                return value
            make_dependents(value)
            base = real(value).detach()
            expose(value)
            return base

        return func(*mapped(read, args), **mapped(read, kwargs or {}))


def open_todo(value: Any) -> Todo | None:
    """Return what is to be done to `value` if it may be done by whoever reads it now."""
    if type(value) is not Activation or value.todo is None:
        return None
    return value.todo if value.made_in == mode() and waiting_allowed() else None


def held(tensor: Tensor, habit: Habit | None = None, moments: Moments | None = None) -> Activation:
    """Return an activation that is made."""
    kind = Kind(tuple(tensor.shape), tensor.dtype, tensor.device)
    learns = tensor.requires_grad and torch.is_grad_enabled()
    value = histories.same(Activation, kind, tensor) if learns else without_values(Activation, kind)
    value.base = value.tensor = tensor
    value.kind, value.made_in, value.moments = kind, mode(), moments
    value.suspect = not value.made_in[0]
    value.habit = habit or Habit()
    return value


def pending(todo: Todo, kind: Kind, habit: Habit, remake: Remake, *operands: Any) -> Activation:
    """Return an activation that is made by `todo` when it has to be.

    Args:
        remake: gives the same of `operands`; for its history.
    """
    if torch.is_grad_enabled():
        value = histories.promise(Activation, kind, remake, *operands)
    else:
        value = without_values(Activation, kind)
    value.kind, value.habit = kind, habit
    return _wait(value, todo)


def change(value: Activation, todo: Todo) -> Activation:
    """Let `value`, which is open, be made by `todo`: an operation in place."""
    make_dependents(value)
    value.edits += 1
    if torch.is_grad_enabled():
        with _trusted(value):
            histories.change(value, todo.remake, *todo.parts())
        value.changes += 1
    return _wait(value, todo)


def _wait(value: Any, todo: Todo) -> Activation:
    value.todo, value.made_in = todo, mode()
    value.suspect = not value.made_in[0]
    unseen, reference = False, weakref.ref(value)
    for one in todo.reads():
        if type(one) is Activation:
            unseen = unseen or one.exposed
            if one.dependents is None:
                one.dependents = []
            one.dependents.append(reference)
    if unseen:
        real(value)
    return value


def make_dependents(value: Activation) -> None:
    """Make all that waits for `value`, which may be about to change."""
    waiting, value.dependents = value.dependents, None
    for reference in waiting or ():
        one = reference()
        if one is not None and one.todo is not None:
            real(one)


def real(value: Activation, moments: bool = False) -> Any:
    """Return the plain tensor that `value` is; it is made once, measured if that costs no pass."""
    if value.todo is not None:
        todo, value.todo = value.todo, None
        if value.made_in == mode() and waiting_allowed():
            value.base = value.tensor = todo.run(value, moments)
        else:
            with as_it_was(value.made_in):
                value.base = value.tensor = todo.run(value, moments)
    if value.suspect and torch.is_grad_enabled():
        _adopt_history(value)
    return value.base


def read(value: Any) -> Any:
    """Return the tensor that `value` is, to be read and not changed; anything else as it is."""
    if type(value) is not Activation:
        return value
    real(value)
    note_read(value)
    return value.tensor


def note_read(value: Activation) -> None:
    """Count that `value` is read, and let the layer that it comes from learn of it."""
    value.reads += 1
    if value.normed:
        value.habit.skips = True
    elif value.reads > 1:
        value.habit.keeps = True


def plain(value: Any) -> Any:
    """Return the plain tensor that `value` is; anything else as it is."""
    return real(value) if type(value) is Activation else value


def in_pytorch(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return func(*args, **kwargs) of plain tensors; an activation again if it lies batch-last."""
    values = list(found(Activation, (args, kwargs)))
    for value in values:
        make_dependents(value)
        if func in OF_GRADIENTS and value.passed:
            raise GemkernError(
                f"{func.__name__} comes after a layer of an accelerated model has read the "
                "activation: call it where the activation is made, or gemkern.decelerate the model"
            )
        note_read(value)
    bases = [real(value) for value in values]
    versions = [version_of(base) for base in bases]
    result = func(*mapped(plain, args), **mapped(plain, kwargs))
    for value, base, version in zip(values, bases, versions, strict=True):
        if version_of(base) != version or (base.requires_grad and not known(_wants_grad, value)):
            _note_change(value)
        elif func in OF_GRADIENTS:
            _renew_history(value)
    if func in GIVE_PLAIN:
        for value, base in zip(values, bases, strict=True):
            if _may_alias(result, base):
                expose(value)
        return result
    return _given_back(result, values)


def lay_out(value: Activation) -> None:
    """Lay out `value` as PyTorch would have: some functions ask how it lies in memory.

    Raises:
        GemkernError: there may be other tensors of the same memory.
    """
    make_dependents(value)
    base = real(value)
    if base.is_contiguous():
        return
    if value.exposed and not value.adopted:
        raise GemkernError(
            "a view of an activation of an accelerated model needs another layout, and other views "
            "of it exist: use reshape() in place of view(), or gemkern.decelerate the model"
        )
    with as_it_was(value.made_in):
        value.base = value.tensor = ops.contiguous(base)
    _renew_history(value)


def laid_out(value: Any) -> Any:
    """Return the plain tensor that `value` is, or a copy, as PyTorch lays it out.

    Anything else than an activation is returned as it is.
    """
    return ops.contiguous(real(value)) if type(value) is Activation else value


@contextmanager
def _trusted(value: Activation) -> Iterator[None]:
    """Let the history of `value` change, which is nobody else's doing."""
    suspect, value.suspect = value.suspect, False
    yield
    value.suspect = suspect


def _adopt_history(value: Activation) -> None:
    """Follow the history that somebody's autograd function gave to `value`."""
    with torch._C.DisableTorchFunctionSubclass():
        changed = value._version != value.changes if value.made_in[0] else value.requires_grad
    if changed:
        value.base = value.tensor = histories.adopted(value, value.base)
        value.adopted, value.suspect, value.made_in = True, False, mode()


def _note_change(value: Activation) -> None:
    """Note that the memory of `value` changed, which is that of its family too."""
    for reference in value.family or (weakref.ref(value),):
        one = reference()
        if one is None:
            continue
        one.moments, one.tensor = None, one.base
        one.edits += 1
        # An autograd function computes without gradients, and may give what it changed its own.
        one.suspect = one.suspect or not torch.is_grad_enabled()
        if one.base.requires_grad and torch.is_grad_enabled():
            with _trusted(one):
                histories.renewed(one, one.base)
            one.changes += 1


def expose(value: Activation) -> None:
    """Note that there are, or may be, other tensors of the memory of `value`."""
    if not value.exposed:
        value.exposed = True
        # What it is made of does not make it any more.
        _renew_history(value)


def _renew_history(value: Activation) -> None:
    """Let what looks past __torch_function__ find the history of what is inside `value` now.

    That is no change, for whoever saved `value`.
    """
    if value.base.requires_grad and torch.is_grad_enabled():
        with _trusted(value), torch.autograd._unsafe_preserve_version_counter(value):
            histories.renewed(value, value.base)


def _wants_grad(value: Tensor) -> bool:
    return value.requires_grad


def known(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what the history and the kind of activations say of themselves."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _given_back(result: Any, values: Sequence[Activation]) -> Any:
    """Return what PyTorch made of `values`, with activations for what they are, and lie like."""
    if type(result) in (list, tuple):
        return type(result)(_given_back(one, values) for one in result)
    same = next((value for value in values if result is value.base), None)
    if same is not None:
        return same
    family = [value for value in values if _may_alias(result, value.base)]
    for value in family:
        expose(value)
    if type(result) is not Tensor or not result.is_floating_point():
        return result
    lies = result.dim() > 1 and result.stride(0) == 1 and result.shape[0] > 1
    if not family and (not lies or result.is_contiguous()):
        return result
    given = held(result)
    for value in family:
        given.exposed = True
        join(value, given)
    return given


def join(value: Activation, other: Activation) -> None:
    """Let two activations of one memory be told of each other's changes."""
    if value.family is None:
        value.family = [weakref.ref(value)]
    value.family.append(weakref.ref(other))
    other.family = value.family


def _may_alias(result: Any, base: Tensor) -> bool:
    if result is None or isinstance(result, PLAIN_RESULTS):
        return False
    if isinstance(result, list | tuple):
        return any(_may_alias(one, base) for one in result)
    if type(result) is not Tensor or result.layout != torch.strided or result.is_meta:
        return True
    return bool(result.untyped_storage()._cdata == base.untyped_storage()._cdata)
