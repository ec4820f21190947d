"""Arguments of every operator torch.ops.gemkern.NAME, as its schema wants them."""

from __future__ import annotations

from typing import Any

import torch
from batch_last_samples import SAMPLES as OF_BATCH_LAST
from torch import Tensor

from gemkern import ops

FLOAT, DOUBLE, HALF = torch.float32, torch.float64, torch.bfloat16
LAST = torch.channels_last
SHAPES = ((3, 4), (0, 5), (4, 2, 3, 3))
GEOMETRIES = {
    "plain": ((1, 1), (0, 0), (1, 1), 1),
    "grouped": ((2, 1), (1, 2), (1, 2), 2),
}
NO_CHOICE = ""

Arguments = tuple[Any, ...]

generator = torch.Generator().manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)


def uniform(*shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=dtype)


def flags(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator) < 0.7


def model(dtype: torch.dtype = FLOAT, layout: torch.memory_format = LAST) -> list[list[Tensor]]:
    """Weights, scores and active of three layers, one of them empty and one four-dimensional."""
    layers = [
        [normal(*shape, dtype=dtype) for shape in SHAPES],
        [uniform(*shape, dtype=DOUBLE if dtype == DOUBLE else FLOAT) for shape in SHAPES],
        [flags(*shape) for shape in SHAPES],
    ]
    layers[0][2] = layers[0][2].contiguous(memory_format=layout)
    return layers


def of_masks() -> dict[str, Arguments]:
    _, scores, active = model()
    _, wide, _ = model(DOUBLE)
    tau = torch.tensor(0.5)
    return {
        "scored": (scores, active, tau, NO_CHOICE),
        "unscored": (None, active, tau, NO_CHOICE),
        "float64": (wide, active, tau.double(), "reference"),
    }


def of_effective_weight() -> dict[str, Arguments]:
    weights, scores, active = model()
    tau = torch.tensor(0.4)
    learning = [[t.clone().requires_grad_() for t in layers] for layers in (weights, scores)]
    keep, contiguous = torch.preserve_format, torch.contiguous_format
    half = [weight.to(HALF) for weight in weights]
    return {
        "learning": (*learning, active, tau, None, keep, NO_CHOICE),
        "unscored": (weights, None, active, tau, HALF, contiguous, NO_CHOICE),
        "channels last": (half, scores, active, tau, FLOAT, LAST, NO_CHOICE),
    }


def of_straight_through() -> dict[str, Arguments]:
    grads, _, _ = model()
    weights, _, active = model()
    halves = [grad.to(HALF) for grad in grads]
    wide = [weight.double() for weight in weights]
    return {
        "float32": (grads, weights, active, NO_CHOICE),
        "half gradients, float64 weights": (halves, wide, active, NO_CHOICE),
    }


def of_pack_mask() -> dict[str, Arguments]:
    masks = {"conv": flags(4, 2, 3, 3), "turned": flags(5, 4).t(), "empty": flags(0, 5)}
    return {name: (mask, NO_CHOICE) for name, mask in masks.items()}


def of_unpack_mask() -> dict[str, Arguments]:
    return {
        str(shape): (torch.randint(256, (size,), generator=generator).byte(), shape, NO_CHOICE)
        for shape, size in (((3, 7), 3), ((), 1), ((0, 5), 0))
    }


def of_select_kth() -> dict[str, Arguments]:
    values, _, active = model()
    wide, _, _ = model(DOUBLE)
    empty = ([normal(0)], [flags(0)], torch.tensor(0), NO_CHOICE)
    return {
        "together": (values, active, torch.tensor(9), NO_CHOICE),
        "each": (wide, active, torch.tensor([2, 0, 5]), NO_CHOICE),
        "empty": empty,
    }


def of_remove_lowest() -> dict[str, Arguments]:
    samples = {}
    for name, (values, active, k, _) in of_select_kth().items():
        found = ops.select_kth(values, active, k)
        samples[name] = (values, active, *found, NO_CHOICE)
    return samples


def of_popup_mask() -> dict[str, Arguments]:
    _, scores, _ = model()
    _, wide, _ = model(DOUBLE)
    kept = torch.tensor([5, 0, 40])
    return {"float32": (scores, kept, NO_CHOICE), "float64": (wide, kept, "reference")}


def of_popup_weight() -> dict[str, Arguments]:
    weights, scores, _ = model()
    learning = [[t.clone().requires_grad_() for t in layers] for layers in (weights, scores)]
    kept = torch.tensor([5, 0, 40])
    return {
        "learning": (*learning, kept, None, NO_CHOICE),
        "half": (weights, scores, kept, HALF, NO_CHOICE),
    }


def of_linear() -> dict[str, dict[str, Any]]:
    """Named operands of masked_linear and its gradients."""
    return {
        "float32": operands((2, 4, 5), (3, 5), (2, 4, 3)),
        "vector": operands((5,), (3, 5), (3,), dtype=DOUBLE),
        "no rows": operands((0, 5), (3, 5), (0, 3), scored=False),
        "half": operands((4, 5), (3, 5), (4, 3), dtype=HALF),
    }


def of_conv2d() -> dict[str, dict[str, Any]]:
    """Named operands of masked_conv2d and its gradients."""
    plain, grouped = GEOMETRIES["plain"], GEOMETRIES["grouped"]
    return {
        "grouped": operands((2, 4, 7, 6), (6, 2, 3, 2), (2, 6, 4, 8), grouped),
        "channels last": operands((2, 3, 5, 5), (4, 3, 3, 3), (2, 4, 3, 3), plain, layout=LAST),
        "float64": operands((2, 3, 5, 5), (4, 3, 3, 3), (2, 4, 3, 3), plain, dtype=DOUBLE),
        "no images": operands((0, 3, 5, 5), (4, 3, 3, 3), (0, 4, 3, 3), plain, scored=False),
    }


def operands(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    y: tuple[int, ...],
    geometry: Arguments = (),
    scored: bool = True,
    dtype: torch.dtype = FLOAT,
    layout: torch.memory_format = torch.contiguous_format,
) -> dict[str, Any]:
    images, weights, grad_y = (normal(*shape, dtype=dtype) for shape in (x, weight, y))
    given = [tensor.contiguous(memory_format=layout) for tensor in (images, weights, grad_y)]
    return {
        **dict(zip(("x", "weight", "grad_y"), given, strict=True)),
        "scores": uniform(*weight) if scored else None,
        "active": flags(*weight),
        "bias": normal(weight[0], dtype=dtype) if scored else None,
        "input_size": x,
        "geometry": geometry,
    }


LAYER = ("weight", "scores", "active")
TAKEN = {
    "": ("x", *LAYER, "bias"),
    "_input_grad": ("grad_y", *LAYER),
    "_weight_grad": ("grad_y", "x", *LAYER),
    "_score_grad": ("grad_y", "x", "weight", "active"),
}


def of_layer(kind: str, suffix: str) -> dict[str, Arguments]:
    samples = {}
    for name, of in (of_linear() if kind == "linear" else of_conv2d()).items():
        if suffix == "":
            # The gradient is part of what is checked.
            for learns in ("x", "weight", "scores", "bias"):
                of[learns] = None if of[learns] is None else of[learns].requires_grad_()
        first, *rest = (of[taken] for taken in TAKEN[suffix])
        size = (of["input_size"],) if (kind, suffix) == ("conv2d", "_input_grad") else ()
        samples[name] = (first, *size, *rest, *of["geometry"], NO_CHOICE)
    return samples


def of_step(memories: int, numbers: int, settings: Arguments) -> dict[str, Arguments]:
    """Samples of a score step with `memories` a layer, `numbers` on the device, and `settings`."""

    def sample(dtype: torch.dtype, weighted: bool, effective: bool) -> Arguments:
        weights, scores, active = model(dtype)
        grads, _, _ = model(dtype)
        remembered = [[torch.rand_like(score) for score in scores] for _ in range(memories)]
        next_weights = [torch.zeros_like(w, dtype=HALF) for w in weights] if effective else None
        given = (scores, active, grads, *remembered, weights if weighted else None, next_weights)
        rates = [torch.tensor(0.25 * i, dtype=scores[0].dtype) for i in (1, 2, 4)[:numbers]]
        return (*given, *rates, *settings, NO_CHOICE)

    return {
        "scores alone": sample(FLOAT, weighted=False, effective=False),
        "weighted float64": sample(DOUBLE, weighted=True, effective=False),
        "effective": sample(FLOAT, weighted=True, effective=True),
    }


SAMPLES: dict[str, dict[str, Arguments]] = {
    "threshold": of_masks(),
    "effective_weight": of_effective_weight(),
    "straight_through": of_straight_through(),
    "pack_mask": of_pack_mask(),
    "unpack_mask": of_unpack_mask(),
    "select_kth": of_select_kth(),
    "remove_lowest": of_remove_lowest(),
    "popup_mask": of_popup_mask(),
    "popup_weight": of_popup_weight(),
    "score_step_sgd": of_step(1, 2, (0.9, True)),
    "score_step_adam": of_step(2, 3, (0.9, 0.999, 1e-8)),
    **{
        f"masked_{kind}{suffix}": of_layer(kind, suffix)
        for kind in ("linear", "conv2d")
        for suffix in TAKEN
    },
    **OF_BATCH_LAST,
}
