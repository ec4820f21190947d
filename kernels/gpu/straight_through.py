"""The straight-through product of a whole model, in one launch.

Named and called as `gemkern.kernels.reference.straight_through`, and equal to it bit for bit in
float32. Rare Gems (NeurIPS 2022), section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import (
    BLOCK,
    THREADS,
    WARPS,
    alike,
    element,
    load_part,
    locate,
    operand,
    store_part,
    table,
)
from gemkern.kernels.gpu.variants import Variant
from gemkern.kernels.layouts import dense, empty_as, ordered_as
from torch import Tensor


@triton.jit
def product_part(
    out_ptr, grads_ptr, weights_ptr, active_ptr, offsets, size,
    OUT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    grads = load_part(grads_ptr, offsets, size, WHOLE).to(OUT)
    weights = load_part(weights_ptr, offsets, size, WHOLE).to(OUT)
    active = load_part(active_ptr, offsets, size, WHOLE) != 0
    store_part(out_ptr, offsets, tl.where(active, grads * weights, 0), size, WHOLE)


@triton.jit(do_not_specialize=["LAYERS"])
def straight_through_kernel(
    plan_ptr, addresses_ptr, LAYERS,
    OUT: tl.constexpr, GRAD: tl.constexpr, WEIGHT: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    layer, start, size = locate(plan_ptr, LAYERS, BLOCK)
    out_ptr = operand(addresses_ptr, 0, layer, LAYERS, OUT, ALIGNED)
    grads_ptr = operand(addresses_ptr, 1, layer, LAYERS, GRAD, ALIGNED)
    weights_ptr = operand(addresses_ptr, 2, layer, LAYERS, WEIGHT, ALIGNED)
    active_ptr = operand(addresses_ptr, 3, layer, LAYERS, tl.int8, ALIGNED)
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= size:
        product_part(out_ptr, grads_ptr, weights_ptr, active_ptr, offsets, size, OUT, True)
    else:
        product_part(out_ptr, grads_ptr, weights_ptr, active_ptr, offsets, size, OUT, False)


def straight_through(
    effective_grads: Sequence[Tensor], weights: Sequence[Tensor], active: Sequence[Tensor]
) -> list[Tensor]:
    grads = [dense(grad) for grad in effective_grads]
    weights, active = (
        [ordered_as(one, grad) for one, grad in zip(tensors, grads, strict=True)]
        for tensors in (weights, active)
    )
    out = [
        empty_as(grad, torch.promote_types(weight.dtype, torch.float32))
        for grad, weight in zip(grads, weights, strict=True)
    ]
    for layers in alike(out, grads, weights):
        rows = table(layers(out), layers(grads), layers(weights), layers(active))
        launch(
            straight_through_kernel,
            (rows.programs,),
            rows.plan.device,
            rows.plan,
            rows.addresses,
            rows.layers,
            OUT=element(rows.dtypes[0]),
            GRAD=element(rows.dtypes[1]),
            WEIGHT=element(rows.dtypes[2]),
            ALIGNED=rows.aligned,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return out


def variants() -> Iterator[Variant]:
    """Yield the kernel for gradients and weights of up to 32 bits."""
    arguments = {"plan_ptr": "*i64", "addresses_ptr": "*i64", "LAYERS": "i32"}
    dtypes = (tl.float32, tl.float16, tl.bfloat16)
    for grad, weight, aligned in itertools.product(dtypes, dtypes, (True, False)):
        constants = {
            "OUT": tl.float32,
            "GRAD": grad,
            "WEIGHT": weight,
            "ALIGNED": aligned,
            "BLOCK": BLOCK,
        }
        kind = "elementwise" if aligned else "other"
        yield Variant(straight_through_kernel, arguments, constants, kind, THREADS)
