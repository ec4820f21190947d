"""Whole models on the sparse kernels: compressed layers, batch-last activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import buckets
from gemkern.nn.activations import Habit
from gemkern.nn.compression import compress_all, compressible_layers, decelerate
from gemkern.nn.convert import Report, tied_or_bypassed
from gemkern.nn.door import open_door
from gemkern.nn.memory import keep_freed_memory
from gemkern.ops.dispatch import choose
from gemkern.optim.layers import unwrapped

# A layer with a larger part of its weights stays dense: whole steps break even at about 0.3
# (`python -m benchmarks.cpu`).
BREAK_EVEN = 0.25
# A network of at most this density is not slower, whichever it is (`python -m
# benchmarks.break_even`). Among its layers one stays dense later: it costs two conversions of the
# layout, which took ResNet-20 from twice as fast as the dense step to slower than it.
SURE_TO_PAY, BREAK_EVEN_AMONG_SPARSE = 0.15, 0.5
# A step on fewer pixels is spent on launching kernels.
FEWEST_PIXELS = 4096
# With so few inputs to an output a layer is bound by its activations, and sparse at any density.
FEW_INPUTS = 64


def accelerate(model: nn.Module) -> nn.Module:
    """Switch a masked model to sparse kernels and the batch-last layout, in place; return it.

    Masked layers below the break-even density are compressed to the weights that remain
    (`MaskedConv2d.compress`): parameters stay the same objects but hold fewer numbers, so make the
    optimiser afterwards, or let it follow (`gemkern.optim.carrying`). Batch norm, ReLU, addition
    and pooling run on batch-last activations. Called again after more weights were frozen, it
    compresses further. `acceleration` says what it would do to which layer; `decelerate` undoes
    it, but for one thing that holds for the whole process: `keep_freed_memory`.

    Raises:
        GemkernError: no layer would be served.
    """
    layers, report = dict(compressible_layers(model)), acceleration(model)
    if not report.converted:
        reasons = why_left(report) or "no masked layer"
        raise GemkernError(
            f"the model {type(model).__name__} has nothing to accelerate ({reasons}): mask it "
            "first, below the break-even density"
        )
    _compress(model, [layers[name] for name in report.converted])
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


def restore_form(model: nn.Module, form: Mapping[str, Any]) -> None:
    """Give `model` the form that `form_of` returned, under the masks that it has."""
    layers: dict[str, Any] = dict(compressible_layers(model))
    decelerate(model)
    if form["compressed"]:
        _compress(model, [layers[name] for name in form["compressed"]])
    for name, layer in layers.items():
        habit = form["habits"].get(name)
        layer.habit = None if habit is None else Habit(**habit)


def _compress(model: nn.Module, layers: Sequence[Any]) -> None:
    keep_freed_memory()
    compress_all(layers)
    open_door(unwrapped(model))


def runs_sparse(device: str) -> bool:
    """Return whether a backend other than the reference serves sparse layers on a device type."""
    try:
        return choose("sparse_conv2d", device) != "reference"
    except GemkernError:
        return False


def pays(model: nn.Module) -> bool:
    """Return whether `model` is sure to be faster accelerated; reads the device.

    It is sparse enough as a whole, and no layer stays dense.
    """
    if not runs_sparse("cpu"):
        return False
    report = acceleration(model)
    return bool(report.converted) and not report.left and _density(model) <= SURE_TO_PAY


def why_never(model: nn.Module) -> str:
    """Return why the kernels serve no layer of `model`, however sparse it becomes; or ""."""
    if not runs_sparse("cpu"):
        return "no backend but the reference serves sparse layers: pip install numba"
    layers = dict(compressible_layers(model))
    barred = _barred(model)
    reasons = {
        name: barred.get(layer, "") or _why_dense(layer, 1.0) for name, layer in layers.items()
    }
    return "" if "" in reasons.values() else why_left(Report(left=reasons)) or "no masked layer"


def large_enough(batch: int, height: int, width: int) -> bool:
    """Return whether a step on a batch of images of this size is long enough to be accelerated.

    A committed number decides, not a measurement when training begins: dense and sparse sums round
    differently, and one seed has to give one result.
    """
    return batch * height * width >= FEWEST_PIXELS


def acceleration(model: nn.Module) -> Report:
    """Return which layers of `model` the sparse kernels serve, and why others stay dense.

    Reads the device.
    """
    report = Report()
    barred = _barred(model)
    is_sparse = _density(model) <= SURE_TO_PAY
    break_even = BREAK_EVEN_AMONG_SPARSE if is_sparse else BREAK_EVEN
    for name, layer in compressible_layers(model):
        reason = barred.get(layer, "") or _why_dense(layer, break_even)
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


def _density(model: nn.Module) -> float:
    return _density_of([layer for _, layer in compressible_layers(model)])


def _density_of(layers: Sequence[Any]) -> float:
    """Return the fraction that remains, of the weights of layers with more than a few inputs."""
    judged = [
        layer
        for layer in layers
        if math.prod(layer.whole_shape[1:]) > FEW_INPUTS and not layer.active.is_meta
    ]
    # Without a count over the whole weight: compressed, `active` holds what remains alone.
    left = sum(layer.active.sum().item() for layer in judged)
    return left / max(sum(math.prod(layer.whole_shape) for layer in judged), 1)


def _why_dense(layer: Any, break_even: float) -> str:
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed (by a parametrization or a hook), and has to be its own"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}, and the sparse kernels run on the CPU"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, and the sparse kernels are float32"
    density = _density_of([layer])
    if density > break_even:
        return f"its density {density:.3g} is above the break-even density {break_even}"
    return ""
