"""Calls of the operators that make masks, rank scores and move them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.of_operators import Call, Drawer, try_call
from benchmarks.fuzz.operands import Numbers

SHAPES = ((3, 4), (0, 5), (4, 2, 3, 3), (), (1,), (130,), (2, 3, 4), (70, 33))


def _shapes(drawer: Drawer) -> list[tuple[int, ...]]:
    return [drawer.one_of(*SHAPES) for _ in range(drawer.one_of(1, 1, 2, 3))]


def _each(drawer: Drawer, shapes: list[tuple[int, ...]], **options: Any) -> list[Numbers]:
    return [drawer.numbers(*shape, **options) for shape in shapes]


@st.composite
def mask_calls(draw: Any) -> Call:
    """Return calls of what makes masks, packs them and puts them on weights."""
    drawer = Drawer(draw)
    operator = drawer.one_of("threshold", "effective_weight", "pack_mask", "unpack_mask")
    if operator == "pack_mask":
        mask = drawer.numbers(*drawer.one_of(*SHAPES), dtype="bool", fill="whole")
        return Call(operator, drawer.spoiled({"mask": mask}))
    if operator == "unpack_mask":
        shape = tuple(draw(st.lists(st.sampled_from((0, 1, 2, 3, 8, 9)), max_size=4)))
        count = 1
        for side in shape:
            count *= side
        packed = drawer.numbers(-(-count // 8), dtype="uint8", fill="uniform")
        return Call(operator, drawer.spoiled({"packed": packed, "shape": shape}))
    shapes, dtype = _shapes(drawer), drawer.dtype()
    own: dict[str, Any] = {
        "scores": drawer.one_of(_each(drawer, shapes, fill="uniform"), None),
        "active": _each(drawer, shapes, dtype="bool", fill="whole"),
        "tau": drawer.one_of(0.5, 0.0, -1.0, 2.0, Numbers((), fill="uniform")),
    }
    if operator == "effective_weight":
        own = {"weights": _each(drawer, shapes, dtype=dtype), **own}
        own["dtype"] = drawer.one_of(None, None, torch.bfloat16, torch.float64, torch.int64)
        own["memory_format"] = drawer.one_of(
            torch.preserve_format, torch.channels_last, torch.contiguous_format
        )
    elif own["scores"] is None and drawer.one_of(True, False):
        own["scores"] = []
    return Call(operator, drawer.spoiled(own))


@st.composite
def rank_calls(draw: Any) -> Call:
    """Return calls of what ranks numbers."""
    drawer = Drawer(draw)
    operator = drawer.one_of("select_kth", "remove_lowest", "popup_mask", "popup_weight")
    shapes, dtype = _shapes(drawer), drawer.dtype()
    ranks = (len(shapes),) if drawer.one_of(True, False) else ()
    # Ranks and numbers of what is kept are not read: beyond all entries they are not to be trusted.
    has_entries = all(0 not in shape for shape in shapes)
    trusted = ("zeros", "ones") if has_entries else ("zeros",)
    rank = drawer.one_of("zeros", "zeros", "ones", "huge", "whole")

    def call(own: dict[str, Any], name: str) -> Call:
        spoiled = drawer.spoiled(own)
        fill = getattr(spoiled.get(name), "fill", rank)
        return Call(operator, spoiled, unread=fill not in trusted)

    if operator.startswith("popup"):
        own: dict[str, Any] = {
            "scores": _each(drawer, shapes),
            "kept": Numbers((len(shapes),), "int64", "contiguous", rank),
        }
        if operator == "popup_weight":
            own = {"weights": _each(drawer, shapes, dtype=dtype), **own}
            own["dtype"] = drawer.one_of(None, None, torch.bfloat16, torch.int64)
        return call(own, "kept")
    own = {
        "values": _each(drawer, shapes, dtype=dtype),
        "active": _each(drawer, shapes, dtype="bool", fill="ones" if rank == "ones" else "whole"),
    }
    if operator == "select_kth":
        own["k"] = Numbers(ranks, "int64", "contiguous", rank)
        return call(own, "k")
    own["kth"] = drawer.numbers(*ranks, dtype=dtype)
    own["ties"] = Numbers(ranks, "int64", "contiguous", rank)
    return Call(operator, drawer.spoiled(own))


@st.composite
def step_calls(draw: Any) -> Call:
    """Return calls of one step of scores."""
    drawer = Drawer(draw)
    operator = drawer.one_of("score_step_sgd", "score_step_adam")
    shapes, kept = _shapes(drawer), drawer.one_of("float32", "float32", "float64")
    dtype = drawer.dtype()
    weighted = drawer.one_of(True, False)
    memories = ("buffers",) if operator == "score_step_sgd" else ("exp_avgs", "exp_avg_sqs")
    own: dict[str, Any] = {
        "scores": _each(drawer, shapes, dtype=kept, fill="uniform"),
        "active": _each(drawer, shapes, dtype="bool", fill="whole"),
        "grads": _each(drawer, shapes, dtype=dtype),
        **{name: _each(drawer, shapes, dtype=kept, fill="uniform") for name in memories},
        "weights": _each(drawer, shapes, dtype=dtype) if weighted else None,
        "effective": _each(drawer, shapes, dtype=dtype) if drawer.one_of(weighted, False) else None,
        "lr": drawer.one_of(0.1, 0.0, 1e30, Numbers((), kept, fill="uniform")),
        "l2": drawer.one_of(0.0, 1e-4, Numbers((), kept, fill="uniform")),
    }
    if operator == "score_step_sgd":
        own |= {"momentum": drawer.one_of(0.9, 0.0), "nesterov": drawer.one_of(True, False)}
    else:
        own |= {"step": drawer.one_of(1.0, 3.0, 1e6), "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return Call(operator, drawer.spoiled(own))


LAYER = {"scores": [Numbers((3, 4))], "active": [Numbers((3, 4), "bool")]}
STEP = {**LAYER, "grads": [Numbers((3, 4))], "buffers": [Numbers((3, 4))], "lr": 0.1}
FUZZERS = (
    Fuzzer("masks", try_call, mask_calls, Call("threshold", LAYER)),
    Fuzzer("ranks", try_call, rank_calls),
    Fuzzer("score steps", try_call, step_calls, Call("score_step_sgd", STEP)),
)
