"""How kernels become PyTorch operators, called gemkern::NAME.

An operator that works layer by layer runs hundreds of times in a training step, so it stands on
`torch.library.Library` and a bare `autograd.Function`: half the cost a call of `custom_op` and
`register_autograd`. Every schema ends in `str backend`, "" where the caller leaves the choice open:
it is made when the operator runs, so that compiled code holds none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gemkern.errors import GemkernError
from gemkern.kernels import reference
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern
from gemkern.ops.dispatch import kernel
from gemkern.ops.operands import Signature

Operator = Callable[..., Any]

LIBRARY = torch.library.Library("gemkern", "FRAGMENT")

# The operands have their dtypes by now; inside a kernel autocast would change those of products.
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
for _device in ("CUDA", "XPU", "MPS"):
    _AUTOCAST |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{_device}"))


# Types of arguments that hold others, and all that are no subclass of a tensor.
_HOLDING = frozenset((list, Norm, NormSparse, Pattern, Geometry))
_PLAIN = frozenset(
    (Tensor, torch.nn.Parameter, type(None), bool, int, float, str, tuple, torch.Size)
)

# Of every operator that makes new tensors.
SIGNATURES: dict[str, Signature] = {}


def register(operator: str, schema: str) -> Operator:
    """Register gemkern::`operator`, which makes new tensors, and return it, called with operands.

    The schema names operands as `gemkern.ops.operands` has them.

    Its fake implementation is the reference itself: plain PyTorch that reads no number on the host
    finds shapes, dtypes and strides by running on fake tensors.
    """

    signature = SIGNATURES[operator] = Signature(schema)
    run = _implementation(operator)

    def real(*arguments: Any) -> Any:
        return run(*signature.operands(arguments))

    def fake(*arguments: Any) -> Any:
        *operands, _ = signature.operands(arguments)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return getattr(reference, operator)(*operands)

    LIBRARY.define(operator + signature.schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(operator, real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gemkern::{operator}", fake, lib=LIBRARY)
    registered = getattr(torch.ops.gemkern, operator).default
    if not signature.has_bundles:
        return registered
    return lambda *operands: registered(*signature.flat(operands))


def register_in_place(operator: str, schema: str, mutates: tuple[str, ...]) -> Operator:
    """Register gemkern::`operator`, which changes the arguments `mutates` and returns nothing.

    The changes are counted, so that a backward pass which saved such a tensor notices. Where
    nothing would see the call, the kernel itself is called: to hand all tensors of a model to an
    operator and back takes several times as long as to launch it.
    """
    run = _implementation(operator)
    registered = torch.library.custom_op(
        f"gemkern::{operator}", run, mutates_args=mutates, schema=schema
    )
    registered.register_fake(lambda *_: None)
    overload = getattr(torch.ops.gemkern, operator).default
    names = [argument.name for argument in overload._schema.arguments]
    changed = [names.index(name) for name in mutates]

    def call(*arguments: Any) -> None:
        with torch.no_grad():
            if torch.compiler.is_compiling() or not _unseen(arguments):
                registered(*arguments)
                return
            run(*arguments)
            for place in changed:
                increment_version(arguments[place] or ())

    return call


def differentiate(
    operator: str,
    setup: Callable[[Any, Sequence[Any]], None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
) -> Operator:
    """Give gemkern::`operator`, of tensors to one tensor, its gradients; return it.

    What is returned takes the shorter way to the same where nothing would see the call.

    Args:
        setup: setup(ctx, operands) keeps what `gradients` needs.
        gradients: gradients(ctx, grad) returns a gradient, or None, for every operand.
    """
    apply, signature = getattr(torch.ops.gemkern, operator).default, SIGNATURES[operator]
    run = _implementation(operator)

    def below_autograd(*operands: Any) -> Tensor:
        # Whatever the kernel views on its way is its own: the result may be changed in place.
        with torch._C._AutoDispatchBelowADInplaceOrView():
            if _unseen(operands):
                return run(*operands)
            return apply(*signature.flat(operands))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            operands = signature.operands(inputs)
            setup(ctx, operands)
            return below_autograd(*operands)

        @staticmethod
        @once
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            return signature.gradients(gradients(ctx, grad))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise GemkernError(f"{operator} has no derivative in forward mode: use backward()")

    def autograd(*inputs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return below_autograd(*signature.operands(inputs))
        refuse_transforms(operator)
        return Function.apply(*inputs)

    def call(*operands: Any) -> Tensor:
        if torch.compiler.is_compiling() or not _unseen(operands):
            return apply(*signature.flat(operands))
        if torch.is_grad_enabled():
            return Function.apply(*signature.flat(operands))
        with torch._C._AutoDispatchBelowADInplaceOrView():
            return run(*operands)

    LIBRARY.impl(operator, autograd, "Autograd")
    return call


def refuse_transforms(operator: str) -> None:
    """Raise where a transform of torch.func would differentiate an operator.

    Raises:
        GemkernError: one is active.
    """
    if torch._C._are_functorch_transforms_active():
        raise GemkernError(
            f"{operator} has no derivative under the transforms of torch.func: use backward() or "
            "torch.autograd"
        )


def differentiable(operator: str, with_gradients: Operator) -> None:
    """Let gemkern::`operator` be `with_gradients`, of the same arguments, where grad is enabled."""
    apply = getattr(torch.ops.gemkern, operator).default

    def autograd(*inputs: Any) -> Any:
        if torch.is_grad_enabled():
            return with_gradients(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return apply(*inputs)

    LIBRARY.impl(operator, autograd, "Autograd")


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let what `backward` returns refuse to be differentiated again."""

    def backward_once(ctx: Any, *grads: Any) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        sources = [*_tensors(grads), *_tensors(ctx.saved_tensors)]
        with torch.no_grad():
            return _guard(backward(ctx, *grads), sources)

    return backward_once


def short_way(operator: str) -> Operator:
    """Return what an autograd function of gemkern::`operator` calls in its place, with operands.

    That is the kernel itself where nothing on the way would see the call: no mode, no profiler, no
    transform of functions and no subclass of tensors. To ask costs a tenth of such a call.
    """
    apply, signature = getattr(torch.ops.gemkern, operator).default, SIGNATURES[operator]
    run = _implementation(operator)

    def call(*operands: Any) -> Any:
        if _unseen(operands):
            return run(*operands)
        with torch._C._AutoDispatchBelowAutograd():
            return apply(*signature.flat(operands))

    return call


def _unseen(arguments: Iterable[Any]) -> bool:
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or not _are_plain(arguments)
    )


def _are_plain(arguments: Iterable[Any]) -> bool:
    """Return whether neither arguments nor what lists and bundles hold are of a subclass."""
    for one in arguments:
        kind = type(one)
        if kind not in _PLAIN and (kind not in _HOLDING or not _PLAIN.issuperset(map(type, one))):
            return False
    return True


def _implementation(operator: str) -> Operator:
    def run(*operands: Any) -> Any:
        *inputs, backend = operands
        first = inputs[0] if isinstance(inputs[0], Tensor) else next(_tensors(inputs))
        serve = kernel(operator, "cpu" if first.is_cpu else first.device.type, backend)
        if not torch._C._is_any_autocast_enabled():
            return serve(*inputs)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return serve(*inputs)

    return run


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _guard(gradients: Any, sources: list[Tensor]) -> Any:
    if isinstance(gradients, Tensor):
        with torch.enable_grad():
            return _FirstDerivative.apply(gradients, *sources)
    if isinstance(gradients, (list, tuple)):
        return type(gradients)(_guard(gradient, sources) for gradient in gradients)
    return gradients


class _FirstDerivative(torch.autograd.Function):
    """The identity on a gradient that depends on `sources`, with no derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise GemkernError(
            "a masked layer is differentiable once: double backward through the straight-through "
            "estimator is not defined; leave out create_graph=True, or what differentiates again"
        )
