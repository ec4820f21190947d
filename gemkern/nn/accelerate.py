"""Whole models on the sparse kernels: compressed layers, batch-last activations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import buckets
from gemkern.nn.activations import Habit
from gemkern.nn.compression import compress_all, compressible_layers, decelerate, expand_all
from gemkern.nn.convert import Report, tied_or_bypassed
from gemkern.nn.door import open_door
from gemkern.nn.memory import keep_freed_memory
from gemkern.optim.layers import unwrapped


@dataclass(frozen=True)
class Policy:
    """Which densities `accelerate` takes to pay, on any machine; searches measure instead.

    Attributes:
        break_even: a layer of a larger density stays dense, and a model of a smaller one is sparse
            (`python -m benchmarks.cpu` times whole steps).
        among_sparse: the same for a layer of a sparse model, where each dense layer costs two
            conversions of the layout.
        few_inputs: a layer with no more inputs to an output is bound by its activations, and counts
            as sparse at any density.
    """

    break_even: float = 0.25
    among_sparse: float = 0.5
    few_inputs: int = 64


POLICY = Policy()
# Whatever the kernels can serve.
ANY_DENSITY = Policy(break_even=1.0, among_sparse=1.0)


def accelerate(model: nn.Module, policy: Policy = POLICY) -> nn.Module:
    """Switch a masked model to sparse kernels and the batch-last layout, in place; return it.

    Masked layers that are sparse enough for `policy` are compressed to the weights that remain
    (`MaskedConv2d.compress`): parameters stay the same objects but hold fewer numbers, so make the
    optimiser afterwards, or let it follow (`gemkern.optim.carrying`). Batch norm, ReLU, addition
    and pooling run on batch-last activations. Called again after more weights were frozen, it
    compresses further. `acceleration` says what it would do to which layer; `decelerate` undoes
    it, but for one thing that holds for the whole process: `keep_freed_memory`.

    Raises:
        GemkernError: no layer would be served.
    """
    report = acceleration(model, policy)
    if not report.converted:
        reasons = why_left(report) or "no masked layer"
        raise GemkernError(
            f"the model {type(model).__name__} has nothing to accelerate ({reasons}): mask it "
            "first, below the break-even density"
        )
    _compress(model, report.converted)
    return model


def form_of(model: nn.Module) -> dict[str, Any]:
    """Return which layers of `model` are compressed, and what they know that rounding depends on.

    For `restore_form`: models of one state and one form compute the same bits.
    """
    layers: dict[str, Any] = dict(compressible_layers(model))
    return {
        "compressed": [name for name, layer in layers.items() if layer.is_compressed],
        "habits": {name: asdict(layer.habit) for name, layer in layers.items() if layer.habit},
    }


def take_form(model: nn.Module, compressed: Collection[str]) -> None:
    """Compress the layers of these names to what is active now, and expand all others."""
    if not compressed:
        decelerate(model)
        return
    expand_all([one for name, one in compressible_layers(model) if name not in compressed])
    _compress(model, compressed)


def restore_form(model: nn.Module, form: Mapping[str, Any]) -> None:
    """Give `model` the form that `form_of` returned, under the masks that it has."""
    take_form(model, form["compressed"])
    layers: dict[str, Any] = dict(compressible_layers(model))
    for name, layer in layers.items():
        habit = form["habits"].get(name)
        layer.habit = None if habit is None else Habit(**habit)


def _compress(model: nn.Module, names: Collection[str]) -> None:
    layers = dict(compressible_layers(model))
    keep_freed_memory()
    compress_all([layers[name] for name in names])
    open_door(unwrapped(model))


def acceleration(model: nn.Module, policy: Policy = POLICY) -> Report:
    """Return which layers of `model` `accelerate` serves, and why others stay dense.

    Reads the device.
    """
    layers = dict(compressible_layers(model))
    is_sparse = _density(list(layers.values()), policy) <= policy.break_even
    most = max(policy.among_sparse, policy.break_even) if is_sparse else policy.break_even
    barred = _barred(model)
    report = Report()
    for name, layer in layers.items():
        reason = barred.get(layer, "") or _why_unserved(layer)
        if not reason and (density := _density([layer], policy)) > most:
            reason = f"its density {density:.3g} is above the break-even density {most}"
        if reason:
            report.left[name] = reason
        else:
            report.converted.append(name)
    return report


def _barred(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules whose parameters have to keep their shape, and what to say of each."""
    bucketed = buckets.in_buckets()
    held = [module for module in model.modules() if buckets.holds_any(module, bucketed)]
    return dict.fromkeys(held, buckets.REASON) | tied_or_bypassed(model)


def why_left(report: Report) -> str:
    """Return why layers stay dense, each reason once."""
    names: dict[str, list[str]] = {}
    for name, reason in report.left.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(those)}: {reason}" for reason, those in names.items())


def _density(layers: Sequence[Any], policy: Policy) -> float:
    """Return the fraction that remains, of the weights of layers with more than a few inputs."""
    judged = [
        layer
        for layer in layers
        if math.prod(layer.whole_shape[1:]) > policy.few_inputs and not layer.active.is_meta
    ]
    # Without a count over the whole weight: compressed, `active` holds what remains alone.
    left = sum(layer.active.sum().item() for layer in judged)
    return left / max(sum(math.prod(layer.whole_shape) for layer in judged), 1)


def _why_unserved(layer: Any) -> str:
    """Return why the kernels cannot serve `layer` at any density; or ""."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed (by a parametrization or a hook), and has to be its own"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}, and the sparse kernels run on the CPU"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, and the sparse kernels are float32"
    return ""
