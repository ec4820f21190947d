"""Whole models on the sparse kernels: compressed layers, batch-last activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn.batch_last_graph import Rewritten
from gemkern.nn.compression import compressible_layers, is_accelerated
from gemkern.nn.convert import Report
from gemkern.ops.dispatch import choose

# A layer with a larger part of its weights stays dense: whole steps break even at about 0.3
# (`python -m benchmarks.cpu`).
BREAK_EVEN = 0.25
# Up to this density no measured network is slower (`python -m benchmarks.break_even`).
SURE_TO_PAY = 0.15
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
    it.

    Raises:
        GemkernError: no layer would be served, or the forward pass cannot be traced.
    """
    report = acceleration(model)
    if not report.converted:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.left.items())
        raise GemkernError(
            f"the model {type(model).__name__} has nothing to accelerate "
            f"({reasons or 'no masked layer'}): mask it first, below the break-even density"
        )
    if not is_accelerated(model):
        model.forward = _rewritten(model)
    for name in report.converted:
        layer: Any = model.get_submodule(name)
        layer.compress()
    return model


def runs_sparse(device: str) -> bool:
    """Return whether a backend other than the reference serves sparse layers on a device type."""
    try:
        return choose("sparse_conv2d", device) != "reference"
    except GemkernError:
        return False


def pays(model: nn.Module) -> bool:
    """Return whether `model` is sure to be faster accelerated, in every layer; reads the device.

    One dense layer among sparse ones costs two conversions of the layout.
    """
    if not runs_sparse("cpu"):
        return False
    report = _report(model, SURE_TO_PAY)
    return bool(report.converted) and not report.left


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
    return _report(model, BREAK_EVEN)


def _report(model: nn.Module, break_even: float) -> Report:
    report = Report()
    for name, layer in compressible_layers(model):
        reason = _why_dense(layer, break_even)
        if reason:
            report.left[name] = reason
        else:
            report.converted.append(name)
    return report


def _why_dense(layer: Any, break_even: float) -> str:
    weight = layer.weight
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}, and the sparse kernels run on the CPU"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, and the sparse kernels are float32"
    outputs, *inputs = layer.whole_shape
    # Without a count over the whole weight: compressed, `active` holds what remains alone.
    density = layer.active.sum().item() / max(outputs * math.prod(inputs), 1)
    if density > break_even and math.prod(inputs) > FEW_INPUTS:
        return f"its density {density:.3g} is above the break-even density {break_even}"
    return ""


def _rewritten(model: nn.Module) -> Rewritten:
    try:
        return Rewritten(model)
    except Exception as error:
        raise GemkernError(
            f"the forward pass of {type(model).__name__} cannot be traced ({error}): leave out "
            "what depends on the data, or accelerate its parts one by one"
        ) from error
