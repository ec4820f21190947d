"""Scores to masks and effective weights, one launch for a whole model.

Named and called as `gemkern.kernels.reference.threshold`, and equal to it bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import (
    BLOCK,
    THREADS,
    WARPS,
    Table,
    alike,
    element,
    load_part,
    locate,
    operand,
    store_part,
    table,
)
from gemkern.kernels.gpu.variants import Kind, Variant
from gemkern.kernels.kept import number
from gemkern.kernels.layouts import dense, empty_as, ordered_as, same_order
from torch import Tensor

TAU = 0.5
LAST = torch.channels_last
# Weights of an output channel that are transposed as they are read: counted in int32.
MOST_TRANSPOSED = 2**30


@triton.jit
def mask_part(
    scores_ptr, active_ptr, tau, offsets, size, SCORED: tl.constexpr, WHOLE: tl.constexpr
):
    """Return the mask of a part of a layer; where nothing is SCORED it is `active` alone."""
    mask = load_part(active_ptr, offsets, size, WHOLE) != 0
    if SCORED:
        mask = mask & (load_part(scores_ptr, offsets, size, WHOLE) >= tau)
    return mask


@triton.jit(do_not_specialize=["LAYERS"])
def threshold_kernel(
    plan_ptr,
    addresses_ptr,
    tau_ptr,
    LAYERS,
    SCORE: tl.constexpr,
    SCORED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    layer, start, size = locate(plan_ptr, LAYERS, BLOCK)
    mask_ptr = operand(addresses_ptr, 0, layer, LAYERS, tl.int8, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    # Without scores row 2 is that of active again, and is not read.
    scores_ptr = operand(addresses_ptr, 2, layer, LAYERS, SCORE, ALIGNED)
    tau = tl.load(tau_ptr).to(SCORE)
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= size:
        mask = mask_part(scores_ptr, active_ptr, tau, offsets, size, SCORED, True)
        store_part(mask_ptr, offsets, mask.to(tl.int8), size, True)
    else:
        mask = mask_part(scores_ptr, active_ptr, tau, offsets, size, SCORED, False)
        store_part(mask_ptr, offsets, mask.to(tl.int8), size, False)


@triton.jit(do_not_specialize=["LAYERS"])
def effective_weight_kernel(
    plan_ptr,
    addresses_ptr,
    tau_ptr,
    LAYERS,
    WEIGHT: tl.constexpr,
    SCORE: tl.constexpr,
    OUT: tl.constexpr,
    SCORED: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    layer, start, size = locate(plan_ptr, LAYERS, BLOCK)
    out_ptr = operand(addresses_ptr, 0, layer, LAYERS, OUT, ALIGNED)
    weight_ptr = operand(addresses_ptr, 1, layer, LAYERS, WEIGHT, ALIGNED)
    active_ptr = operand(addresses_ptr, 2, layer, LAYERS, tl.int8, ALIGNED)
    scores_ptr = operand(addresses_ptr, 3, layer, LAYERS, SCORE, ALIGNED)
    tau = tl.load(tau_ptr).to(SCORE)
    targets = start + tl.arange(0, BLOCK)
    sources = targets
    if TRANSPOSED:
        rows = tl.load(addresses_ptr + 4 * LAYERS + layer).to(tl.int32)
        columns = tl.load(addresses_ptr + 5 * LAYERS + layer).to(tl.int32)
        sources = transposed(start, rows, columns, BLOCK)
    if start + BLOCK <= size:
        mask = mask_part(scores_ptr, active_ptr, tau, sources, size, SCORED, True)
        effective = tl.where(mask, load_part(weight_ptr, sources, size, True), 0)
        store_part(out_ptr, targets, narrow(effective, OUT), size, True)
    else:
        # Transposition stays within a layer: what lies beyond it does so in both orders.
        mask = mask_part(scores_ptr, active_ptr, tau, sources, size, SCORED, False)
        effective = tl.where(mask, load_part(weight_ptr, sources, size, False), 0)
        store_part(out_ptr, targets, narrow(effective, OUT), size, False)


@triton.jit
def transposed(start, ROWS, COLUMNS, BLOCK: tl.constexpr):
    """Return what to read for the part at `start` of matrices that lie transposed, one by one.

    Divides in 64 bits once, and for each element in 32.
    """
    size = ROWS * COLUMNS
    begin = (start % size).to(tl.int32)
    at = begin + tl.arange(0, BLOCK)
    place = at % size
    return start - begin + (at - place + place % COLUMNS * ROWS + place // COLUMNS)


@triton.jit
def narrow(values, DTYPE: tl.constexpr):
    """Convert `values` as PyTorch does: from float64 to 16 bits by way of float32."""
    if DTYPE.primitive_bitwidth == 16 and values.dtype == tl.float64:
        values = values.to(tl.float32)
    return values.to(DTYPE)


def threshold(
    scores: Sequence[Tensor] | None, active: Sequence[Tensor], tau: float | Tensor = TAU
) -> list[Tensor]:
    scored = [dense(layer) for layer in (active if scores is None else scores)]
    active = [ordered_as(on, layer) for on, layer in zip(active, scored, strict=True)]
    masks = [empty_as(layer, torch.bool) for layer in scored]
    for layers in alike(scored):
        _launch(threshold_kernel, table(layers(masks), layers(active), layers(scored)), tau)
    return masks


def effective_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float | Tensor = TAU,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> list[Tensor]:
    out = [_unwritten(weight, dtype or weight.dtype, memory_format) for weight in weights]
    weights, rows, columns = _transposable(weights, out)
    active, scored = (
        [ordered_as(one, weight) for one, weight in zip(tensors, weights, strict=True)]
        for tensors in (active, active if scores is None else scores)
    )
    for layers in alike(out, weights, scored):
        _launch(
            effective_weight_kernel,
            table(
                layers(out),
                layers(weights),
                layers(active),
                layers(scored),
                numbers=(layers(rows), layers(columns)),
            ),
            tau,
            OUT=element(layers(out)[0].dtype),
            WEIGHT=element(layers(weights)[0].dtype),
            TRANSPOSED=max(layers(rows)) > 1,
        )
    return out


def _launch(kernel: triton.JITFunction, layers: Table, tau: float | Tensor, **more: Any) -> None:
    """Launch `kernel` over `layers`, the last operand of which is scores, or active without any."""
    score, device = layers.dtypes[-1], layers.plan.device
    launch(
        kernel,
        (layers.programs,),
        device,
        layers.plan,
        layers.addresses,
        number(tau, score if score.is_floating_point else torch.float32, device),
        layers.layers,
        SCORE=element(score),
        SCORED=score != torch.bool,
        ALIGNED=layers.aligned,
        BLOCK=BLOCK,
        num_warps=WARPS,
        **more,
    )


def _unwritten(weight: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Return a tensor with no values for the effective weight of `weight`."""
    if weight.dim() != 4:
        memory_format = torch.preserve_format
    return torch.empty_like(dense(weight), dtype=dtype, memory_format=memory_format)


def _transposable(
    weights: Sequence[Tensor], out: Sequence[Tensor]
) -> tuple[list[Tensor], list[int], list[int]]:
    """Return dense `weights`, and the shape of the matrices that lie transposed in `out`.

    Between contiguous and channels-last these are input channels by taps, one for each output
    channel; where the order of both is the same, they are 1 by 1.
    """
    ready, rows, columns = [], [], []
    for weight, target in zip(weights, out, strict=True):
        weight = dense(weight)
        shape = (1, 1)
        if weight.dim() == 4 and not same_order(weight, target):
            channels, taps = weight.shape[1], weight.shape[2] * weight.shape[3]
            if channels * taps > MOST_TRANSPOSED:
                weight = ordered_as(weight, target)
            elif weight.is_contiguous() and target.is_contiguous(memory_format=LAST):
                shape = (taps, channels)
            elif weight.is_contiguous(memory_format=LAST) and target.is_contiguous():
                shape = (channels, taps)
        ready.append(weight if max(shape) > 1 else ordered_as(weight, target))
        rows.append(shape[0])
        columns.append(shape[1])
    return ready, rows, columns


def variants() -> Iterator[Variant]:
    """Yield every kernel of this file with the constants of a float32 or float64 model."""
    arguments = {"plan_ptr": "*i64", "addresses_ptr": "*i64", "tau_ptr": "*fp32", "LAYERS": "i32"}
    for scored, aligned in itertools.product((True, False), repeat=2):
        masks = {
            "SCORE": tl.float32 if scored else tl.int8,
            "SCORED": scored,
            "ALIGNED": aligned,
            "BLOCK": BLOCK,
        }
        # Eight bools of a thread are eight bytes.
        kind: Kind = "elementwise" if aligned and scored else "other"
        yield Variant(threshold_kernel, arguments, masks, kind, THREADS)
        dtypes = (tl.float32, tl.float16, tl.bfloat16)
        for weight, out, transposed in itertools.product(dtypes, dtypes, (False, True)):
            constants = {**masks, "WEIGHT": weight, "OUT": out, "TRANSPOSED": transposed}
            kind = "elementwise" if aligned and not transposed else "other"
            yield Variant(effective_weight_kernel, arguments, constants, kind, THREADS)
