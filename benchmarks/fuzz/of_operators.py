"""Fuzzers of the public operators, each run beside the reference.

Arguments have the Python types that an operator's signature names, whatever stands in them: any
exception but a `GemkernError` is a failure. (One of another type, a text where a tensor belongs, is
answered by whatever Python raises, and none is given here.) A number is never such that a result
which fits would need gigabytes: what PyTorch says of memory is its own.

What is accepted on a CPU is compared with the backend "reference": bit for bit where operators
choose, else with the reference in float64, if all operands are finite. What is accepted on the meta
device has to stay there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.fuzz.child import Wrong
from benchmarks.fuzz.operands import (
    ABSURD,
    DTYPES,
    FILLS,
    LAYOUTS,
    Numbers,
    Places,
    Statistics,
    made,
)
from gemkern import ops
from gemkern.errors import GemkernError

# Of the largest magnitude of a result; a wrong index costs all of it.
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 6e-2, torch.float16: 1e-2}
# Beyond, float16 and sums of squares overflow.
MOST = 1e3
BITWISE = {
    "threshold", "effective_weight", "pack_mask", "unpack_mask", "select_kth", "remove_lowest",
    "popup_mask", "popup_weight", "score_step_sgd", "score_step_adam", "pattern", "batch_last",
}  # fmt: skip
# Arguments that an operator changes in place.
CHANGED = {
    "remove_lowest": ("active",),
    "score_step_sgd": ("scores", "buffers", "effective"),
    "score_step_adam": ("scores", "exp_avgs", "exp_avg_sqs", "effective"),
    "batch_norm_relu": ("running_mean", "running_var"),
}
# Without a kink, beside which gradients could round to either side.
SMOOTH = {"sparse_linear", "sparse_conv2d", "average_pool2d", "padded_shortcut", "masked_linear"}


class Call(NamedTuple):
    """A call of an operator.

    Attributes:
        unread: numbers that are documented to be taken on trust are none to be trusted: it may come
            to anything but a crash.
    """

    operator: str
    arguments: dict[str, Any]
    backward: bool = False
    unread: bool = False


def try_call(call: Call, folder: Path) -> None:
    """Call the operator, and compare what it returns with the reference."""
    arguments = {name: made(operand) for name, operand in call.arguments.items()}
    try:
        result = _results(call, arguments)
    except GemkernError:
        raise
    except Exception:
        if call.unread:
            return
        raise
    first = next(iter(_tensors(list(arguments.values()))), None)
    if first is not None and first.device.type == "meta":
        if any(one.device.type != "meta" for one in result):
            raise Wrong(f"{call.operator} leaves the meta device")
        return
    if call.unread:
        return
    same = {name: made(operand) for name, operand in call.arguments.items()}
    if "backend" in same:
        same["backend"] = "reference"
    if call.operator in BITWISE:
        for ours, theirs in zip(result, _results(call, same), strict=True):
            _check_bits(call, ours, theirs)
    elif all(_is_tame(one) for one in _tensors(list(same.values()))):
        wide = {name: _doubled(operand) for name, operand in same.items()}
        for ours, theirs in zip(result, _results(call, wide), strict=True):
            _check_close(call, ours, theirs)


def _results(call: Call, arguments: dict[str, Any]) -> list[Tensor]:
    """Return what the call returns, changes in place, and sends back as gradients."""
    leaves = []
    if call.backward:
        leaves = [
            operand.requires_grad_()
            for name, operand in arguments.items()
            if isinstance(operand, Tensor)
            and operand.is_floating_point()
            and name not in ("scores", *CHANGED.get(call.operator, ()))
        ]
    returned = getattr(ops, call.operator)(**arguments)
    found = list(_tensors([returned]))
    changed = [arguments.get(name) for name in CHANGED.get(call.operator, ())]
    results = [*(one.detach() for one in found), *_tensors(changed)]
    if leaves and found and found[0].requires_grad:
        grad = torch.ones_like(found[0]).cumsum(-1) if found[0].dim() else torch.ones_like(found[0])
        grads = torch.autograd.grad(found[0], leaves, grad, allow_unused=True)
        results += [one for one in grads if one is not None] if call.operator in SMOOTH else []
    return results


def _tensors(values: Any) -> Any:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _is_tame(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool((tensor.float().abs() <= MOST).all())


def _doubled(operand: Any) -> Any:
    if isinstance(operand, Tensor):
        return operand.double() if operand.is_floating_point() else operand
    if isinstance(operand, ops.Norm):
        return ops.Norm(*map(_doubled, operand))
    return [_doubled(one) for one in operand] if isinstance(operand, list) else operand


def _check_bits(call: Call, ours: Tensor, theirs: Tensor) -> None:
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        raise Wrong(
            f"{call.operator} returns {ours.dtype} {tuple(ours.shape)} and the reference "
            f"{theirs.dtype} {tuple(theirs.shape)}"
        )
    one, other = (tensor.contiguous().reshape(-1) for tensor in (ours, theirs))
    if one.is_floating_point():
        both = one.isnan() & other.isnan()
        one, other = (tensor.masked_fill(both, 0.0).view(torch.uint8) for tensor in (one, other))
    if not torch.equal(one, other):
        raise Wrong(f"{call.operator} differs from the reference in its bits")


def _check_close(call: Call, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise Wrong(
            f"{call.operator} returns {tuple(ours.shape)}, the reference {tuple(theirs.shape)}"
        )
    if not ours.numel() or not ours.is_floating_point() or not theirs.isfinite().all():
        return
    error = (ours.double() - theirs.double()).abs().max().item()
    least = CLOSE[ours.dtype] * (1 + theirs.abs().max().item())
    if not error <= least:
        raise Wrong(f"{call.operator} is off by {error:.3g}, where {least:.3g} may be")


# Arguments for which None or a dtype stands: another would be of another Python type.
WITHOUT_OTHERS = {"stride", "norm", "dtype", "memory_format"}
OTHERS = (Numbers(()), Numbers((3,)), Numbers((2, 3, 4, 5)), None)
# Arguments that are numbers or tensors.
SCALARS = {"tau", "lr", "l2", "step"}
SIZES = (0, 1, 2, 3, 3, 4, 5, 8)
BATCHES = (0, 1, 2, 3, 5, 16, 17)
BACKENDS = (None, None, None, None, None, "auto", "cpu", "reference", "", "gpu", "neither")


class Drawer:
    """Draws operands that fit, of hypothesis' choices."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def one_of(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return self.draw(st.sampled_from(choices))

    def size(self) -> int:
        """Return the size of a dimension."""
        return self.one_of(*SIZES)

    def numbers(self, *shape: int, dtype: str = "float32", fill: str | None = None) -> Numbers:
        """Return a tensor of a shape, however it lies."""
        layout, own = self.one_of(*LAYOUTS), fill or self.one_of(*FILLS)
        return Numbers(shape, dtype, layout, own, "cpu", self.draw(st.integers(0, 3)))

    def maybe(self, *shape: int, dtype: str = "float32", fill: str | None = None) -> Numbers | None:
        """Return a tensor, or none."""
        return self.numbers(*shape, dtype=dtype, fill=fill) if self.one_of(True, False) else None

    def dtype(self) -> str:
        """Return a float dtype, mostly that which kernels serve."""
        return self.one_of("float32", "float32", "float32", *DTYPES[:4])

    def step(self, least: int) -> int | tuple[int, int]:
        """Return a number of pixels or a pair."""
        number = st.integers(least, least + 2)
        return self.draw(number | number | st.tuples(number, number))

    def spoiled(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments, some of which do not fit any more; half of the time as they are."""
        found = {**arguments, "backend": self.one_of(*BACKENDS)}
        for _ in range(self.one_of(0, 0, 0, 1, 1, 2)):
            name = self.one_of(*arguments)
            if name not in WITHOUT_OTHERS or found[name] is not None:
                found[name] = self._other(found[name], name in SCALARS)
        if self.one_of(*[False] * 15, True):
            return {name: _on_meta(operand) for name, operand in found.items()}
        return found

    def _other(self, operand: Any, is_scalar: bool = False) -> Any:
        if isinstance(operand, Numbers):
            return self.other_numbers(operand)
        if isinstance(operand, Places):
            return self._other_places(operand)
        if isinstance(operand, Statistics):
            name = self.one_of("mean", "var", "weight", "bias", "residual", "eps")
            return operand._replace(**{name: self._other(getattr(operand, name))})
        if isinstance(operand, bool):
            return not operand
        if isinstance(operand, int):
            return self.one_of(*ABSURD)
        if isinstance(operand, tuple):
            return tuple(self.draw(st.lists(st.sampled_from((1, *ABSURD)), max_size=3)))
        if isinstance(operand, float):
            more = (10**400, Numbers(()), Numbers((1,)), Numbers((), "int64")) if is_scalar else ()
            return self.one_of(0.0, -1.0, 1e308, math.nan, math.inf, *more)
        if isinstance(operand, list):
            return self._other_list(operand)
        return operand if operand is not None else self.one_of(*OTHERS)

    def _other_list(self, operand: list[Any]) -> Any:
        way = self.one_of("none", "fewer", "more", "one", "entry", "tensor")
        if way == "entry" and operand:
            return [self._other(operand[0]), *operand[1:]]
        if way == "tensor" and operand:
            return operand[0]
        return {"none": [], "fewer": operand[:-1], "more": [*operand, Numbers((2,))]}.get(
            way, operand[:1]
        )

    def other_numbers(self, operand: Numbers) -> Numbers:
        way = self.one_of("dtype", "shape", "device", "layout", "fill")
        if way == "dtype":
            return operand._replace(dtype=self.one_of(*DTYPES))
        if way == "device":
            return operand._replace(device="meta")
        if way == "layout":
            return operand._replace(layout=self.one_of(*LAYOUTS))
        if way == "fill":
            return operand._replace(fill=self.one_of(*FILLS))
        shape = operand.shape
        choices = [shape[1:], (*shape, 1), (2, *shape), ()]
        if shape:
            choices += [(shape[0] + 1, *shape[1:]), (*shape[:-1], 0), (*shape[:-1], shape[-1] + 1)]
        return operand._replace(shape=self.one_of(*choices))

    def _other_places(self, operand: Places) -> Places:
        lie = (
            self.one_of("shape", "starts", "positions"),
            self.one_of("put", "put", "short", "long", "int32", "float", "flat", "backwards"),
            self.one_of(*ABSURD),
        )
        return operand._replace(lies=(lie,))


def _on_meta(operand: Any) -> Any:
    if isinstance(operand, (Numbers, Places)):
        return operand._replace(device="meta")
    if isinstance(operand, Statistics):
        return Statistics(*map(_on_meta, operand))
    return [_on_meta(one) for one in operand] if isinstance(operand, list) else operand
