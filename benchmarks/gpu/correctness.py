"""Every operator of the table on the GPU: mask operators bit for bit, products by their error.

Two sections: masks take seconds, products minutes, most of them to compile.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from types import ModuleType
from typing import Any

import torch
from gemkern.kernels import reference
from gemkern.kernels.table import OPERATORS
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import copied, require_same
from benchmarks.gpu.layers import PASSES, WAYS, Case, check
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import NotMeasured

MASK_SECTION, PRODUCT_SECTION = "mask correctness", "product correctness"
LAST, KEEP = torch.channels_last, torch.preserve_format
# Gradients and weights in a dtype; in the memory order of a convolution's default, of cuDNN's
# favourite, or of a transposed view, which no kernel may take for a run of memory; or beside the
# multiples of 16 bytes, where parameters lie that share a buffer.
MODELS = {
    "float32": (torch.float32, "contiguous"),
    "float32, unaligned": (torch.float32, "unaligned"),
    "bfloat16, channels last": (torch.bfloat16, "last"),
    "float16, transposed": (torch.float16, "turned"),
}
# The dtype of x; and whether PyTorch may round float32 to TF32.
MODES = {
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
Layers = dict[str, list[Tensor]]
Arguments = Iterator[tuple[Any, ...]]


def plan_masks(bench: Bench) -> Iterator[Row]:
    for operator, model in product(MASKS, MODELS):
        yield Row(_check_masks, operator=operator, model=model)


def plan_products(bench: Bench) -> Iterator[Row]:
    for operator, way, mode in product(PASSES, WAYS, MODES):
        yield Row(_check_products, operator=operator, way=way, mode=mode)


def _check_masks(bench: Bench, operator: str, model: str) -> Entry:
    kernel = getattr(gpu_module(operator), operator)
    layers = random_layers(bench.shapes.layers, bench.device, bench.narrow, *MODELS[model])
    for compared, given in enumerate(MASKS[operator](layers)):
        ours, theirs = copied(given), copied(given)
        # What a kernel returns, and what it changes in place.
        got = kernel(*ours), ours
        wanted = getattr(reference, operator)(*theirs), theirs
        require_same(got, wanted, f"{operator}, arguments {compared}")
    return {"compared": compared + 1}


def _check_products(bench: Bench, operator: str, way: str, mode: str) -> Entry:
    dtype, rounded = MODES[mode]
    if bench.rehearsal and (rounded or dtype == torch.bfloat16):
        raise NotMeasured("the interpreter has no TF32, and its bfloat16 is wrong")
    errors = [
        check(operator, way, case.random(bench.device, dtype), case.geometry, rounded)
        for case in cases(*bench.shapes.product)
        if case.serves(operator)
    ]
    return {"compared": len(errors), "largest_error": max(errors)}


def gpu_module(operator: str) -> ModuleType:
    """Return the module that serves `operator` on a GPU, looked up anew."""
    return importlib.import_module(OPERATORS[operator]["gpu"].module)


def random_layers(
    shapes: Sequence[tuple[int, ...]],
    device: str,
    narrow: torch.dtype,
    dtype: torch.dtype,
    order: str,
) -> Layers:
    """Return what the mask operators take of layers in `dtype`; effective weights are `narrow`.

    Scores are multiples of 1/64, so that many tie; some weights are infinite or -0.0.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(draw: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [draw(shape, generator=generator).to(dtype).to(device) for shape in shapes]

    weights = drawn(torch.randn, dtype)
    for weight in weights:
        weight[weight < -2] = -torch.inf
        weight[weight.abs() < 0.1] = -0.0
    scores = [(64 * score).round() / 64 for score in drawn(torch.rand)]
    layers = {
        "weights": weights,
        "scores": scores,
        "holed": [score.masked_fill(score > 0.9, torch.nan) for score in scores],
        "active": [chance < 0.7 for chance in drawn(torch.rand)],
        "grads": drawn(torch.randn, dtype),
        "first": drawn(torch.rand),
        "second": drawn(torch.rand),
        "effective": [torch.zeros_like(weight, dtype=narrow) for weight in weights],
    }
    return {name: [_ordered(one, order) for one in made] for name, made in layers.items()}


def _ordered(tensor: Tensor, order: str) -> Tensor:
    if order == "turned" and tensor.dim() > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if order == "last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=LAST)
    return unaligned(tensor) if order == "unaligned" else tensor


def unaligned(tensor: Tensor) -> Tensor:
    """Return a contiguous copy that begins one element behind a multiple of 16 bytes."""
    return tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)


def _threshold(of: Layers) -> Arguments:
    for scores in (of["holed"], None):
        yield scores, of["active"], torch.tensor(0.5, device=of["active"][0].device)


def _effective_weight(of: Layers) -> Arguments:
    for masks in _threshold(of):
        for dtype, layout in ((None, KEEP), (of["effective"][0].dtype, LAST)):
            yield of["weights"], *masks, dtype, layout


def _straight_through(of: Layers) -> Arguments:
    yield of["grads"], of["weights"], of["active"]


def _pack_mask(of: Layers) -> Arguments:
    yield from ((mask,) for mask in of["active"])


def _unpack_mask(of: Layers) -> Arguments:
    yield from ((reference.pack_mask(mask), mask.shape) for mask in of["active"])


def _select_kth(of: Layers) -> Arguments:
    counts = torch.stack([on.sum() for on in of["active"]])
    # None of one layer, all of another.
    each = torch.cat([counts[:1] * 0, counts[1:-1] // 2, counts[-1:]])
    for values in (of["holed"], [grad.abs() for grad in of["grads"]]):
        for k in (counts.sum() // 3, each):
            yield values, of["active"], k


def _remove_lowest(of: Layers) -> Arguments:
    for values, active, k in _select_kth(of):
        yield values, active, *reference.select_kth(values, active, k)


def _popup_mask(of: Layers) -> Arguments:
    sizes = torch.tensor([on.numel() for on in of["active"]], device=of["active"][0].device)
    kept = torch.cat([sizes[:1] * 0, sizes[1:-1] // 3, sizes[-1:]])
    yield [score - 0.5 for score in of["holed"]], kept


def _popup_weight(of: Layers) -> Arguments:
    for scores, kept in _popup_mask(of):
        for dtype in (None, of["effective"][0].dtype):
            yield of["weights"], scores, kept, dtype


def _score_step_sgd(of: Layers) -> Arguments:
    state = (of["scores"], of["active"], of["grads"], of["first"])
    for nesterov, straight in product((False, True), _straight(of)):
        yield *state, *straight, *_numbers(of, 0.1, 1e-3), 0.9, nesterov


def _score_step_adam(of: Layers) -> Arguments:
    state = (of["scores"], of["active"], of["grads"], of["first"], of["second"])
    for step, straight in product((1.0, 1000.0), _straight(of)):
        yield *state, *straight, *_numbers(of, 0.01, 1e-3, step), 0.9, 0.999, 1e-8


def _straight(of: Layers) -> Iterator[tuple[Any, Any]]:
    yield from ((None, None), (of["weights"], None), (of["weights"], of["effective"]))


def _numbers(of: Layers, *values: float) -> list[Tensor]:
    return [torch.tensor(value, device=of["scores"][0].device) for value in values]


MASKS: dict[str, Callable[[Layers], Arguments]] = {
    "threshold": _threshold,
    "effective_weight": _effective_weight,
    "straight_through": _straight_through,
    "pack_mask": _pack_mask,
    "unpack_mask": _unpack_mask,
    "select_kth": _select_kth,
    "remove_lowest": _remove_lowest,
    "popup_mask": _popup_mask,
    "popup_weight": _popup_weight,
    "score_step_sgd": _score_step_sgd,
    "score_step_adam": _score_step_adam,
}


def cases(rows: int, inputs: int, outputs: int, image: int) -> tuple[Case, ...]:
    """Return layers of a size that fills several tiles, or few, regular and not."""
    x, square = (2, inputs, image, image), (outputs, inputs, 3, 3)
    one, half, none = (1, 1), (2, 2), (0, 0)
    return (
        Case((rows, inputs), (outputs, inputs)),
        Case((3, rows // 3, inputs - 3), (outputs - 1, inputs - 3)),
        Case((rows, inputs), (outputs, inputs), order="turned"),
        Case(x, square, (one, one, one, 1), order="last"),
        Case(x, square, ((2, 1), (1, 2), (1, 2), 1)),
        Case(x, (outputs, inputs, 1, 1), (half, none, one, 1), order="last"),
        Case(x, (outputs, inputs // 2, 3, 3), (one, one, one, 2), order="last"),
        Case(x, (inputs, 1, 3, 3), (half, one, one, inputs), order="last"),
        Case((1, inputs - 1, image, image + 1), (outputs - 1, inputs - 1, 3, 2),
             (one, none, one, 1)),
    )  # fmt: skip
