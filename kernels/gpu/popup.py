"""Edge-popup for a whole model: radix select of |score|, then masks or effective weights.

Named and called as `gemkern.kernels.reference.popup`, and equal to it bit for bit. Nothing is
sorted and no magnitude is written down. Ramanujan et al., "What's Hidden in a Randomly Weighted
Neural Network?" (CVPR 2020), section 3.

Launches: nine for all layers with float32 scores: one for the ranks, six that select, two as in a
removal. What is equal to the k-th was counted by the last that selects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.keys import BINS, key_of
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.select_kth import (
    PARTS,
    before_variant,
    constants,
    counting_variants,
    equals_before,
    left_of_part,
    rank,
    span,
    spans,
)
from gemkern.kernels.gpu.tables import (
    BLOCK,
    THREADS,
    alike,
    element,
    load_part,
    operand,
    store_part,
)
from gemkern.kernels.gpu.threshold import narrow
from gemkern.kernels.gpu.variants import Kind, Variant
from gemkern.kernels.layouts import dense, empty_as, ordered_as
from torch import Tensor


@triton.jit
def write_part(
    out_ptr, weights_ptr, kept, offsets, size,
    OUT: tl.constexpr, WEIGHTED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Write what a part keeps: its weights, or where nothing is WEIGHTED its mask."""
    if WEIGHTED:
        weights = load_part(weights_ptr, offsets, size, WHOLE)
        store_part(out_ptr, offsets, narrow(tl.where(kept, weights, 0), OUT), size, WHOLE)
    else:
        store_part(out_ptr, offsets, kept.to(OUT), size, WHOLE)


@triton.jit(do_not_specialize=["LAYERS"])
def popup_kernel(
    plan_ptr, addresses_ptr, kth_ptr, ties_ptr, before_ptr, LAYERS,
    VALUE: tl.constexpr, OUT: tl.constexpr, WEIGHT: tl.constexpr, WEIGHTED: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    layer, start, end, size = span(plan_ptr, addresses_ptr, 3, LAYERS, BLOCK, PARTS)
    scores_ptr = operand(addresses_ptr, 0, layer, LAYERS, VALUE, ALIGNED)
    out_ptr = operand(addresses_ptr, 1, layer, LAYERS, OUT, ALIGNED)
    # For masks row 2 is that of out again, and is not read.
    weights_ptr = operand(addresses_ptr, 2, layer, LAYERS, WEIGHT, ALIGNED)
    kth = key_of(tl.load(kth_ptr + layer), False)
    ties = tl.load(ties_ptr + layer)
    before = tl.load(before_ptr + tl.program_id(0))
    for part in range(start, end, BLOCK):
        kept, before = left_of_part(
            scores_ptr, scores_ptr, kth, ties, before, part, size, False, True, BLOCK
        )
        offsets = part + tl.arange(0, BLOCK)
        # Without alignment a whole part is written no faster than another.
        if ALIGNED & (part + BLOCK <= size):
            write_part(out_ptr, weights_ptr, kept, offsets, size, OUT, WEIGHTED, True)
        else:
            write_part(out_ptr, weights_ptr, kept, offsets, size, OUT, WEIGHTED, False)


def popup_mask(scores: Sequence[Tensor], kept: Tensor) -> list[Tensor]:
    rows = [score.contiguous() for score in scores]
    masks = [empty_as(score, torch.bool) for score in rows]
    _launch(rows, kept, masks, None)
    return [ordered_as(mask, dense(score)) for mask, score in zip(masks, scores, strict=True)]


def popup_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    kept: Tensor,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    rows = [weight.contiguous() for weight in weights]
    out = [empty_as(weight, dtype or weight.dtype) for weight in rows]
    _launch([score.contiguous() for score in scores], kept, out, rows)
    return [ordered_as(one, dense(weight)) for one, weight in zip(out, weights, strict=True)]


def _launch(
    scores: Sequence[Tensor], kept: Tensor, out: Sequence[Tensor], weights: Sequence[Tensor] | None
) -> None:
    """Write `out`: the weights that are kept, or without `weights` the masks."""
    read = out if weights is None else weights
    groups = alike(scores, out, read)
    for layers in groups:
        ranked = spans(layers(scores), layers(scores))
        if not ranked.programs:
            continue
        kept_here = kept if len(groups) == 1 else torch.stack(layers(kept.unbind()))
        # The sizes of the layers are on the device already, below the addresses.
        k = ranked.addresses[-ranked.layers :] - kept_here
        equal = k.new_empty((ranked.programs, BINS.value), dtype=torch.int32)
        kth, ties = rank(ranked, k, equal, masked=False, magnitude=True)
        before = equals_before(ranked, kth, equal, counts=BINS.value)
        rows = spans(layers(scores), layers(out), layers(read))
        launch(
            popup_kernel, (rows.programs,), kth.device,
            rows.plan, rows.addresses, kth, ties, before, rows.layers,
            OUT=element(rows.dtypes[1]), WEIGHT=element(rows.dtypes[2]),
            WEIGHTED=weights is not None, **constants(rows),
        )  # fmt: skip


def variants() -> Iterator[Variant]:
    """Yield the kernels of float32 scores with weights of up to 32 bits, and of float64 ones."""
    floats = (tl.float32, tl.float16, tl.bfloat16)
    weighted = [(tl.float32, out, weight) for out, weight in itertools.product(floats, floats)]
    wide = [(tl.float64, out, tl.float64) for out in (tl.float64, *floats)]
    masks = [(dtype, tl.int8, tl.int8) for dtype in (tl.float32, tl.float64)]
    for dtype in (tl.float32, tl.float64):
        yield before_variant(dtype, counts=BINS.value)
        for own in (True, False):
            yield from counting_variants(dtype, masked=False, magnitude=True, own=own)
    for (dtype, out, weight), aligned in itertools.product(weighted + wide + masks, (True, False)):
        arguments = {
            "plan_ptr": "*i64", "addresses_ptr": "*i64", "kth_ptr": f"*{dtype.name}",
            "ties_ptr": "*i64", "before_ptr": "*i64", "LAYERS": "i32",
        }  # fmt: skip
        kind: Kind = "elementwise" if aligned else "other"
        given = {
            "VALUE": dtype, "OUT": out, "WEIGHT": weight, "WEIGHTED": weight != tl.int8,
            "ALIGNED": aligned, "BLOCK": BLOCK, "PARTS": PARTS,
        }  # fmt: skip
        yield Variant(popup_kernel, arguments, given, kind, THREADS)
