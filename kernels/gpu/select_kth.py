"""The exact k-th smallest of many values by radix select, and the removal of the k lowest.

Named and called as `gemkern.kernels.reference.select_kth`, and equal to it (a zero `kth` has the
sign +, whatever zero it stands for). Every pass counts, among the entries whose keys begin as that
of the k-th does, the next eight bits; counts are integers, so their order does not matter. The
passes follow Alabi et al., "Fast k-selection algorithms for graphics processing units" (JEA 2012).

Launches: one that clears the counts, one for each byte of a key, one for the result; three for a
removal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.keys import BINS, key_of, least_key, marks, value_of
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import (
    BLOCK,
    THREADS,
    WARPS,
    Table,
    element,
    load_part,
    locate,
    operand,
    store_part,
    table,
)
from gemkern.kernels.gpu.variants import Kind, Variant
from torch import Tensor

# Parts of BLOCK elements that a program works on: fewer programs add to the same counts.
PARTS = 4
# What a pass leaves for each rank: a count for each bin, then what was known before it of the key
# of the k-th, and the rank that is left among the entries whose keys begin so.
ROW = tl.constexpr(BINS.value + 2)


@triton.jit
def span(
    plan_ptr, addresses_ptr, OPERANDS: tl.constexpr, LAYERS, BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Return the layer of this program, its first element there, its end, and the layer's size."""
    layer, start, _ = locate(plan_ptr, LAYERS, BLOCK)
    start *= PARTS
    size = tl.load(addresses_ptr + OPERANDS * LAYERS + layer)
    return layer, start, tl.minimum(start + PARTS * BLOCK, size), size


@triton.jit
def found(work_ptr, k, rank_of, RANKS, PASS, DTYPE: tl.constexpr):
    """Return the first 8 * PASS bits of the key of the k-th, and the rank that is left there."""
    sign, _ = marks(DTYPE)
    key, rank = sign - sign, k
    if PASS > 0:
        row_ptr = work_ptr + ((PASS - 1) * RANKS + rank_of) * ROW
        key, rank = tl.load(row_ptr + BINS).to(sign.dtype), tl.load(row_ptr + BINS + 1)
        bins = tl.arange(0, BINS)
        up_to = tl.cumsum(tl.load(row_ptr + bins))
        # A rank beyond all entries ends in the last bin, that of NaN.
        before = (up_to < rank) & (bins < BINS - 1)
        digit = tl.sum(before.to(tl.int32)).to(sign.dtype)
        key += digit << (DTYPE.primitive_bitwidth - 8 * PASS).to(sign.dtype)
        rank -= tl.max(tl.where(before, up_to, 0))
    return key, rank


@triton.jit
def keys_of_part(
    values_ptr, active_ptr, part, size, MASKED: tl.constexpr, MAGNITUDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the keys of the part that begins at `part`, and which of its entries are ranked."""
    offsets = part + tl.arange(0, BLOCK)
    ranked = offsets < size
    if part + BLOCK <= size:
        values = load_part(values_ptr, offsets, size, True)
        if MASKED:
            ranked = load_part(active_ptr, offsets, size, True) != 0
    else:
        values = load_part(values_ptr, offsets, size, False)
        if MASKED:
            ranked = load_part(active_ptr, offsets, size, False) != 0
    return key_of(values, MAGNITUDE), ranked


@triton.jit(do_not_specialize=["LAYERS", "RANKS", "EACH", "PASS"])
def count_kernel(
    plan_ptr, addresses_ptr, k_ptr, work_ptr, own_ptr, LAYERS, RANKS, EACH, PASS,
    VALUE: tl.constexpr, MASKED: tl.constexpr, MAGNITUDE: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    layer, start, end, size = span(plan_ptr, addresses_ptr, 2, LAYERS, BLOCK, PARTS)
    values_ptr = operand(addresses_ptr, 0, layer, LAYERS, VALUE, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    rank_of = layer * EACH
    key, rank = found(work_ptr, tl.load(k_ptr + rank_of), rank_of, RANKS, PASS, VALUE)
    row_ptr = work_ptr + (PASS * RANKS + rank_of) * ROW
    if start == 0:
        tl.store(row_ptr + BINS, key.to(tl.int64))
        tl.store(row_ptr + BINS + 1, rank)
    sign, _ = marks(VALUE)
    every_bit = sign + (sign - 1)
    known = every_bit - (every_bit >> (8 * PASS).to(sign.dtype))
    shift = (VALUE.primitive_bitwidth - 8 - 8 * PASS).to(sign.dtype)
    counts = tl.zeros((BINS,), tl.int32)
    for part in range(start, end, BLOCK):
        keys, ranked = keys_of_part(values_ptr, active_ptr, part, size, MASKED, MAGNITUDE, BLOCK)
        digits = ((keys >> shift) & (BINS - 1)).to(tl.int32)
        counts += tl.histogram(digits, BINS, mask=ranked & ((keys & known) == key))
    bins = tl.arange(0, BINS)
    tl.atomic_add(row_ptr + bins, counts.to(tl.int64), mask=counts > 0, sem="relaxed")
    if own_ptr is not None:
        tl.store(own_ptr + tl.program_id(0).to(tl.int64) * BINS + bins, counts)


@triton.jit(do_not_specialize=["RANKS", "PASSES"])
def result_kernel(k_ptr, work_ptr, kth_ptr, ties_ptr, RANKS, PASSES, VALUE: tl.constexpr):
    rank_of = tl.program_id(0).to(tl.int64)
    k = tl.load(k_ptr + rank_of)
    key, rank = found(work_ptr, k, rank_of, RANKS, PASSES, VALUE)
    key = tl.where(k > 0, key, least_key(VALUE))
    tl.store(kth_ptr + rank_of, value_of(key, VALUE))
    tl.store(ties_ptr + rank_of, tl.where(k > 0, rank, 0))


@triton.jit(do_not_specialize=["LAYERS", "EACH"])
def equal_kernel(
    plan_ptr, addresses_ptr, kth_ptr, equal_ptr, LAYERS, EACH,
    VALUE: tl.constexpr, MASKED: tl.constexpr, MAGNITUDE: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Count the entries equal to kth, program by program."""
    layer, start, end, size = span(plan_ptr, addresses_ptr, 2, LAYERS, BLOCK, PARTS)
    values_ptr = operand(addresses_ptr, 0, layer, LAYERS, VALUE, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    kth = key_of(tl.load(kth_ptr + layer * EACH), False)
    counts = tl.zeros((BLOCK,), tl.int32)
    for part in range(start, end, BLOCK):
        keys, ranked = keys_of_part(values_ptr, active_ptr, part, size, MASKED, MAGNITUDE, BLOCK)
        counts += (ranked & (keys == kth)).to(tl.int32)
    tl.store(equal_ptr + tl.program_id(0), tl.sum(counts))


@triton.jit(do_not_specialize=["LAYERS", "PROGRAMS", "EACH"])
def before_kernel(
    plan_ptr, equal_ptr, kth_ptr, before_ptr, LAYERS, PROGRAMS, EACH,
    COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write for each program how many entries equal to kth come before its own, in order.

    A program has counted those of its own in one of its COUNTS, that of the last byte of their key.
    """
    layer = tl.program_id(0)
    equal_ptr += (key_of(tl.load(kth_ptr + layer * EACH), False) & (COUNTS - 1)).to(tl.int32)
    at = tl.zeros((), tl.int64)
    end = at + PROGRAMS
    if EACH:
        at = tl.load(plan_ptr + LAYERS + layer)
        if layer + 1 < LAYERS:
            end = tl.load(plan_ptr + LAYERS + layer + 1)
    total = tl.zeros((), tl.int64)
    while at < end:
        programs = at + tl.arange(0, BLOCK)
        counts = tl.load(equal_ptr + programs * COUNTS, mask=programs < end, other=0).to(tl.int64)
        tl.store(before_ptr + programs, total + tl.cumsum(counts) - counts, mask=programs < end)
        total += tl.sum(counts)
        at += BLOCK


@triton.jit
def left_of_part(
    values_ptr, active_ptr, kth, ties, before, part, size, MASKED: tl.constexpr,
    MAGNITUDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return which ranked entries of a part are not among the lowest, and the next part's `before`.

    `before` is how many entries equal to kth precede a part.
    """
    keys, ranked = keys_of_part(values_ptr, active_ptr, part, size, MASKED, MAGNITUDE, BLOCK)
    equal = ranked & (keys == kth)
    counts = equal.to(tl.int32)
    lowest = (keys < kth) | (equal & (before + tl.cumsum(counts) <= ties))
    return ranked & ~lowest, before + tl.sum(counts)


@triton.jit(do_not_specialize=["LAYERS", "EACH"])
def clear_kernel(
    plan_ptr, addresses_ptr, kth_ptr, ties_ptr, before_ptr, LAYERS, EACH,
    VALUE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    layer, start, end, size = span(plan_ptr, addresses_ptr, 2, LAYERS, BLOCK, PARTS)
    values_ptr = operand(addresses_ptr, 0, layer, LAYERS, VALUE, ALIGNED)
    active_ptr = operand(addresses_ptr, 1, layer, LAYERS, tl.int8, ALIGNED)
    kth = key_of(tl.load(kth_ptr + layer * EACH), False)
    ties = tl.load(ties_ptr + layer * EACH)
    before = tl.load(before_ptr + tl.program_id(0))
    for part in range(start, end, BLOCK):
        left, before = left_of_part(
            values_ptr, active_ptr, kth, ties, before, part, size, True, False, BLOCK
        )
        offsets = part + tl.arange(0, BLOCK)
        if part + BLOCK <= size:
            store_part(active_ptr, offsets, left.to(tl.int8), size, True)
        else:
            store_part(active_ptr, offsets, left.to(tl.int8), size, False)


def select_kth(
    values: Sequence[Tensor], active: Sequence[Tensor], k: Tensor
) -> tuple[Tensor, Tensor]:
    values = [value.contiguous() for value in values]
    active = [on.contiguous() for on in active]
    return rank(spans(values, active), k, None, masked=True, magnitude=False)


def remove_lowest(
    values: Sequence[Tensor], active: Sequence[Tensor], kth: Tensor, ties: Tensor
) -> None:
    # A copy has to live until the last launch: a table holds addresses, not tensors.
    values = [value.contiguous() for value in values]
    worked_on = [on.contiguous() for on in active]
    rows = spans(values, worked_on)
    kth, ties = kth.contiguous(), ties.contiguous()
    equal = kth.new_empty(rows.programs, dtype=torch.int32)
    launch(
        equal_kernel, (rows.programs,), kth.device,
        rows.plan, rows.addresses, kth, equal, rows.layers, kth.dim(),
        MASKED=True, MAGNITUDE=False, **constants(rows),
    )  # fmt: skip
    before = equals_before(rows, kth, equal, counts=1)
    launch(
        clear_kernel, (rows.programs,), kth.device,
        rows.plan, rows.addresses, kth, ties, before, rows.layers, kth.dim(), **constants(rows),
    )  # fmt: skip
    for on, cleared in zip(active, worked_on, strict=True):
        if cleared is not on:
            on.copy_(cleared)


def spans(*operands: Sequence[Tensor]) -> Table:
    """Return the table of contiguous `operands`, PARTS parts of a layer to a program.

    The last row is the layers' sizes.
    """
    sizes = [one.numel() for one in operands[0]]
    return table(*operands, sizes=[triton.cdiv(size, PARTS) for size in sizes], numbers=(sizes,))


def rank(
    rows: Table, k: Tensor, own: Tensor | None, *, masked: bool, magnitude: bool
) -> tuple[Tensor, Tensor]:
    """Return kth and ties of the values in `rows`, as `select_kth`.

    Args:
        rows: the `spans` of values and active.
        own: int32 [programs, BINS], filled with each program's counts of the last pass; or None.
        masked: whether active is read; else every entry is ranked.
        magnitude: whether absolute values are ranked; kth is then one.
    """
    k = k.contiguous()
    dtype = rows.dtypes[0]
    kth, ties = torch.empty_like(k, dtype=dtype), torch.empty_like(k)
    passes = dtype.itemsize
    work = torch.zeros(passes * k.numel() * ROW.value, dtype=torch.int64, device=k.device)
    for each_pass in range(passes):
        launch(
            count_kernel, (rows.programs,), k.device,
            rows.plan, rows.addresses, k, work, own if each_pass == passes - 1 else None,
            rows.layers, k.numel(), k.dim(), each_pass,
            MASKED=masked, MAGNITUDE=magnitude, **constants(rows),
        )  # fmt: skip
    launch(
        result_kernel, (k.numel(),), k.device,
        k, work, kth, ties, k.numel(), passes, VALUE=element(dtype), num_warps=WARPS,
    )  # fmt: skip
    return kth, ties


def equals_before(rows: Table, kth: Tensor, equal: Tensor, counts: int) -> Tensor:
    """Return for each program of `rows` how many entries equal to kth precede its own, int64.

    Args:
        equal: int32 [programs * counts]: how many each program has, by the last byte of their key
            if there are 256 `counts`.
    """
    before = kth.new_empty(rows.programs, dtype=torch.int64)
    launch(
        before_kernel, (kth.numel() if rows.programs else 0,), kth.device,
        rows.plan, equal, kth, before, rows.layers, rows.programs, kth.dim(),
        COUNTS=counts, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return before


def constants(rows: Table) -> dict[str, Any]:
    """Return the constants that the kernels over `rows` share."""
    return {
        "VALUE": element(rows.dtypes[0]),
        "ALIGNED": rows.aligned,
        "BLOCK": BLOCK,
        "PARTS": PARTS,
        "num_warps": WARPS,
    }


def variants() -> Iterator[Variant]:
    """Yield every kernel of this file, for values of each dtype."""
    for dtype in (tl.float32, tl.float16, tl.bfloat16, tl.float64):
        yield before_variant(dtype, counts=1)
        arguments = {
            "k_ptr": "*i64", "work_ptr": "*i64", "kth_ptr": f"*{dtype.name}", "ties_ptr": "*i64",
            "RANKS": "i32", "PASSES": "i32",
        }  # fmt: skip
        yield Variant(result_kernel, arguments, {"VALUE": dtype}, "other", THREADS)
        yield from counting_variants(dtype, masked=True, magnitude=False, own=False)
        for aligned in (True, False):
            arguments = {**_ROWS, "kth_ptr": f"*{dtype.name}"}
            given = {"VALUE": dtype, "ALIGNED": aligned, "BLOCK": BLOCK, "PARTS": PARTS}
            kind: Kind = "elementwise" if aligned else "other"
            yield Variant(
                equal_kernel,
                {**arguments, "equal_ptr": "*i32"},
                {**given, "MASKED": True, "MAGNITUDE": False},
                kind,
                THREADS,
            )
            yield Variant(
                clear_kernel,
                {**arguments, "ties_ptr": "*i64", "before_ptr": "*i64"},
                given,
                kind,
                THREADS,
            )


_COUNTS = {"LAYERS": "i32", "EACH": "i32"}
_ROWS = {"plan_ptr": "*i64", "addresses_ptr": "*i64", **_COUNTS}


def before_variant(dtype: tl.dtype, counts: int) -> Variant:
    """Return the kernel that `equals_before` launches."""
    arguments = {
        "plan_ptr": "*i64", "equal_ptr": "*i32", "kth_ptr": f"*{dtype.name}",
        "before_ptr": "*i64", "PROGRAMS": "i32", **_COUNTS,
    }  # fmt: skip
    return Variant(before_kernel, arguments, {"COUNTS": counts, "BLOCK": BLOCK}, "other", THREADS)


def counting_variants(
    dtype: tl.dtype, *, masked: bool, magnitude: bool, own: bool
) -> Iterator[Variant]:
    """Yield the kernel of a pass over all entries, which keeps its `own` counts or does not."""
    numbers = {"k_ptr": "*i64", "work_ptr": "*i64", "RANKS": "i32", "PASS": "i32"}
    kept = {"own_ptr": "*i32"} if own else {}
    absent = {} if own else {"own_ptr": None}
    for aligned in (True, False):
        ranked = {
            "VALUE": dtype, "MASKED": masked, "MAGNITUDE": magnitude, "ALIGNED": aligned,
            "BLOCK": BLOCK, "PARTS": PARTS, **absent,
        }  # fmt: skip
        kind: Kind = "elementwise" if aligned else "other"
        yield Variant(count_kernel, {**_ROWS, **numbers, **kept}, ranked, kind, THREADS)
