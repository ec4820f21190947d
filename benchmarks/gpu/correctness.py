"""Every operator of the table on the GPU: mask operators bit for bit, products by their error."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from gemkern.kernels import reference
from gemkern.kernels.table import OPERATORS
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import copied, require_same
from benchmarks.gpu.layers import PASSES, WAYS, Case, check
from benchmarks.gpu.timing import NotMeasured

SECTION = "correctness"
SHAPES = ((3, 4), (0, 5), (1,), (4, 2, 3, 3), (70, 33, 3, 3), (129, 257))
LAST, KEEP = torch.channels_last, torch.preserve_format
# Gradients and weights in a dtype; in the memory order of a convolution's default, of cuDNN's
# favourite, or of a transposed view, which no kernel may take for a run of memory.
MODELS = {
    "float32": (torch.float32, "contiguous"),
    "bfloat16, channels last": (torch.bfloat16, "last"),
    "float16, transposed": (torch.float16, "turned"),
}
# The dtype of x; and for float32 whether PyTorch may round to TF32.
MODES = {
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}


def plan(bench: Bench) -> Iterator[Row]:
    for operator in MASKS:
        for model in MODELS:
            yield Row(
                f"{operator} {model}",
                lambda args=(operator, model): _check_masks(bench, *args),
                {"operator": operator, "model": model},
            )
    for operator in (name for name in OPERATORS if name in PASSES):
        for way in WAYS:
            for mode in MODES:
                yield Row(
                    f"{operator} {way} {mode}",
                    lambda args=(operator, way, mode): _check_products(bench, *args),
                    {"operator": operator, "way": way, "mode": mode},
                )


def _check_masks(bench: Bench, operator: str, model: str) -> dict[str, Any]:
    kernel = getattr(gpu_module(operator), operator)
    tried = list(MASKS[operator](random_model(bench.device, *MODELS[model])))
    for number, arguments in enumerate(tried):
        ours, theirs = copied(arguments), copied(arguments)
        # What a kernel returns, and what it changes in place.
        got = kernel(*ours), ours
        wanted = getattr(reference, operator)(*theirs), theirs
        require_same(got, wanted, f"{operator}, arguments {number}")
    return {"compared": len(tried)}


def gpu_module(operator: str) -> ModuleType:
    """Return the module that serves `operator` on a GPU, looked up anew."""
    return importlib.import_module(OPERATORS[operator]["gpu"].module)


def random_model(device: str, dtype: torch.dtype, order: str) -> dict[str, list[Tensor]]:
    """Return what the mask operators take of layers of all kinds, one of them empty.

    Scores are multiples of 1/64, so that many tie; some weights are infinite or -0.0.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(draw: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        made = [draw(shape, generator=generator).to(dtype).to(device) for shape in SHAPES]
        return [_ordered(one, order) for one in made]

    weights = drawn(torch.randn, dtype)
    for weight in weights:
        weight[weight < -2] = -torch.inf
        weight[weight.abs() < 0.1] = -0.0
    scores = [(64 * score).round() / 64 for score in drawn(torch.rand, torch.float32)]
    active = [number < 0.7 for number in drawn(torch.rand, torch.float32)]
    return {
        "weights": weights,
        "scores": scores,
        "holed": [score.masked_fill(score > 0.9, torch.nan) for score in scores],
        "active": active,
        "grads": drawn(torch.randn, dtype),
        "first": drawn(torch.rand, torch.float32),
        "second": drawn(torch.rand, torch.float32),
        "effective": [torch.zeros_like(weight, dtype=torch.bfloat16) for weight in weights],
    }


def _ordered(tensor: Tensor, order: str) -> Tensor:
    if order == "turned" and tensor.dim() > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if order == "last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=LAST)
    return tensor


Arguments = Iterator[tuple[Any, ...]]


def _threshold(of: dict[str, list[Tensor]]) -> Arguments:
    for scores in (of["holed"], None):
        yield scores, of["active"], torch.tensor(0.5, device=of["active"][0].device)


def _effective_weight(of: dict[str, list[Tensor]]) -> Arguments:
    for masks in _threshold(of):
        for dtype, layout in ((None, KEEP), (torch.bfloat16, LAST), (torch.float32, KEEP)):
            yield of["weights"], *masks, dtype, layout


def _straight_through(of: dict[str, list[Tensor]]) -> Arguments:
    yield of["grads"], of["weights"], of["active"]


def _pack_mask(of: dict[str, list[Tensor]]) -> Arguments:
    yield from ((mask,) for mask in of["active"])


def _unpack_mask(of: dict[str, list[Tensor]]) -> Arguments:
    yield from ((reference.pack_mask(mask), mask.shape) for mask in of["active"])


def _select_kth(of: dict[str, list[Tensor]]) -> Arguments:
    counts = torch.stack([on.sum() for on in of["active"]])
    for values in (of["scores"], of["holed"], [grad.abs() for grad in of["grads"]]):
        for k in (counts.sum() // 3, counts // 2, counts, counts * 0):
            yield values, of["active"], k


def _remove_lowest(of: dict[str, list[Tensor]]) -> Arguments:
    for values, active, k in _select_kth(of):
        yield values, active, *reference.select_kth(values, active, k)


def _popup_mask(of: dict[str, list[Tensor]]) -> Arguments:
    sizes = torch.tensor([on.numel() for on in of["active"]], device=of["active"][0].device)
    for kept in (sizes // 3, sizes, sizes * 0):
        yield [score - 0.5 for score in of["holed"]], kept


def _popup_weight(of: dict[str, list[Tensor]]) -> Arguments:
    for scores, kept in _popup_mask(of):
        for dtype in (None, torch.bfloat16):
            yield of["weights"], scores, kept, dtype


def _score_step_sgd(of: dict[str, list[Tensor]]) -> Arguments:
    for nesterov in (False, True):
        for straight in _straight(of):
            rates = _numbers(of, 0.1, 1e-3)
            state = (of["scores"], of["active"], of["grads"], of["first"])
            yield *state, *straight, *rates, 0.9, nesterov


def _score_step_adam(of: dict[str, list[Tensor]]) -> Arguments:
    for step in (1.0, 1000.0):
        for straight in _straight(of):
            rates = _numbers(of, 0.01, 1e-3, step)
            state = (of["scores"], of["active"], of["grads"], of["first"], of["second"])
            yield *state, *straight, *rates, 0.9, 0.999, 1e-8


def _straight(of: dict[str, list[Tensor]]) -> Iterator[tuple[Any, Any]]:
    yield from ((None, None), (of["weights"], None), (of["weights"], of["effective"]))


def _numbers(of: dict[str, list[Tensor]], *values: float) -> list[Tensor]:
    return [torch.tensor(value, device=of["scores"][0].device) for value in values]


MASKS: dict[str, Callable[[dict[str, list[Tensor]]], Arguments]] = {
    "threshold": _threshold,
    "threshold_packed": _threshold,
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


def _check_products(bench: Bench, operator: str, way: str, mode: str) -> dict[str, Any]:
    dtype, rounded = MODES[mode]
    if bench.rehearsal and (rounded or dtype == torch.bfloat16):
        raise NotMeasured("the interpreter has no TF32, and its bfloat16 products are wrong")
    errors = [
        check(operator, way, case.random(bench.device, dtype), case.geometry, rounded)
        for case in cases(*bench.shapes.product)
        if bool(case.geometry) == ("conv2d" in operator)
    ]
    return {"compared": len(errors), "largest_error": max(errors)}


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
