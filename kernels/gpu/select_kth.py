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


@triton.jit(do_not_specialize=["EACH", "PASS"])
def count_kernel(
    plan_ptr, addresses_ptr, k_ptr, work_ptr, LAYERS, RANKS, EACH, PASS,
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
    counts_ptr = row_ptr + tl.arange(0, BINS)
    tl.atomic_add(counts_ptr, counts.to(tl.int64), mask=counts > 0, sem="relaxed")


@triton.jit(do_not_specialize=["PASSES"])
def result_kernel(k_ptr, work_ptr, kth_ptr, ties_ptr, RANKS, PASSES, VALUE: tl.constexpr):
    rank_of = tl.program_id(0).to(tl.int64)
    k = tl.load(k_ptr + rank_of)
    key, rank = found(work_ptr, k, rank_of, RANKS, PASSES, VALUE)
    key = tl.where(k > 0, key, least_key(VALUE))
    tl.store(kth_ptr + rank_of, value_of(key, VALUE))
    tl.store(ties_ptr + rank_of, tl.where(k > 0, rank, 0))


@triton.jit(do_not_specialize=["EACH"])
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
    tl.store(equal_ptr + tl.program_id(0), tl.sum(counts).to(tl.int64))


@triton.jit(do_not_specialize=["EACH"])
def before_kernel(plan_ptr, equal_ptr, LAYERS, PROGRAMS, EACH, BLOCK: tl.constexpr):
    """Turn the counts of programs into how many equal entries come before each, in order."""
    layer = tl.program_id(0)
    at = tl.zeros((), tl.int64)
    end = at + PROGRAMS
    if EACH:
        at = tl.load(plan_ptr + LAYERS + layer)
        if layer + 1 < LAYERS:
            end = tl.load(plan_ptr + LAYERS + layer + 1)
    total = tl.zeros((), tl.int64)
    while at < end:
        programs = at + tl.arange(0, BLOCK)
        counts = tl.load(equal_ptr + programs, mask=programs < end, other=0)
        tl.store(equal_ptr + programs, total + tl.cumsum(counts) - counts, mask=programs < end)
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


@triton.jit(do_not_specialize=["EACH"])
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
    return rank(spans(values, active), k, masked=True, magnitude=False)


def remove_lowest(
    values: Sequence[Tensor], active: Sequence[Tensor], kth: Tensor, ties: Tensor
) -> None:
    # A copy has to live until the last launch: a table holds addresses, not tensors.
    values = [value.contiguous() for value in values]
    worked_on = [on.contiguous() for on in active]
    rows = spans(values, worked_on)
    if not rows.programs:
        return
    kth, ties = kth.contiguous(), ties.contiguous()
    before = equals_before(rows, kth, masked=True, magnitude=False)
    clear_kernel[(rows.programs,)](
        rows.plan, rows.addresses, kth, ties, before, rows.layers, kth.dim(), **constants(rows)
    )
    for on, cleared in zip(active, worked_on, strict=True):
        if cleared is not on:
            on.copy_(cleared)


def spans(*operands: Sequence[Tensor]) -> Table:
    """Return the table of contiguous `operands`, PARTS parts of a layer to a program.

    The last row is the layers' sizes.
    """
    sizes = [one.numel() for one in operands[0]]
    return table(*operands, sizes=[triton.cdiv(size, PARTS) for size in sizes], numbers=(sizes,))


def rank(rows: Table, k: Tensor, *, masked: bool, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Return kth and ties of the values in `rows`, as `select_kth`.

    Args:
        rows: the `spans` of values and active.
        masked: whether active is read; else every entry is ranked.
        magnitude: whether absolute values are ranked; kth is then one.
    """
    k = k.contiguous()
    dtype = rows.dtypes[0]
    kth, ties = torch.empty_like(k, dtype=dtype), torch.empty_like(k)
    passes = dtype.itemsize
    work = torch.zeros(passes * k.numel() * ROW.value, dtype=torch.int64, device=k.device)
    for each_pass in range(passes if rows.programs else 0):
        count_kernel[(rows.programs,)](
            rows.plan, rows.addresses, k, work, rows.layers, k.numel(), k.dim(), each_pass,
            MASKED=masked, MAGNITUDE=magnitude, **constants(rows),
        )  # fmt: skip
    result_kernel[(k.numel(),)](
        k, work, kth, ties, k.numel(), passes, VALUE=element(dtype), num_warps=WARPS
    )
    return kth, ties


def equals_before(rows: Table, kth: Tensor, *, masked: bool, magnitude: bool) -> Tensor:
    """Return for each program of `rows` how many entries equal to kth precede its own, int64."""
    before = kth.new_empty(rows.programs, dtype=torch.int64)
    equal_kernel[(rows.programs,)](
        rows.plan, rows.addresses, kth, before, rows.layers, kth.dim(),
        MASKED=masked, MAGNITUDE=magnitude, **constants(rows),
    )  # fmt: skip
    before_kernel[(kth.numel(),)](
        rows.plan, before, rows.layers, rows.programs, kth.dim(), BLOCK=BLOCK, num_warps=WARPS
    )
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
    arguments = {"plan_ptr": "*i64", "equal_ptr": "*i64", "PROGRAMS": "i32", **_COUNTS}
    yield Variant(before_kernel, arguments, {"BLOCK": BLOCK}, "other", THREADS)
    for dtype in (tl.float32, tl.float16, tl.bfloat16, tl.float64):
        arguments = {
            "k_ptr": "*i64", "work_ptr": "*i64", "kth_ptr": f"*{dtype.name}", "ties_ptr": "*i64",
            "RANKS": "i32", "PASSES": "i32",
        }  # fmt: skip
        yield Variant(result_kernel, arguments, {"VALUE": dtype}, "other", THREADS)
        yield from ranking_variants(dtype, masked=True, magnitude=False)
        for aligned in (True, False):
            arguments = {**_ROWS, "kth_ptr": f"*{dtype.name}", "ties_ptr": "*i64"}
            yield Variant(
                clear_kernel,
                {**arguments, "before_ptr": "*i64"},
                {"VALUE": dtype, "ALIGNED": aligned, "BLOCK": BLOCK, "PARTS": PARTS},
                "elementwise" if aligned else "other",
                THREADS,
            )


_COUNTS = {"LAYERS": "i32", "EACH": "i32"}
_ROWS = {"plan_ptr": "*i64", "addresses_ptr": "*i64", **_COUNTS}


def ranking_variants(dtype: tl.dtype, *, masked: bool, magnitude: bool) -> Iterator[Variant]:
    """Yield the kernels over all entries that `rank` and `equals_before` launch."""
    count = {"k_ptr": "*i64", "work_ptr": "*i64", "RANKS": "i32", "PASS": "i32"}
    equal = {"kth_ptr": f"*{dtype.name}", "equal_ptr": "*i64"}
    for aligned in (True, False):
        ranked = {
            "VALUE": dtype, "MASKED": masked, "MAGNITUDE": magnitude, "ALIGNED": aligned,
            "BLOCK": BLOCK, "PARTS": PARTS,
        }  # fmt: skip
        kind: Kind = "elementwise" if aligned else "other"
        yield Variant(count_kernel, {**_ROWS, **count}, ranked, kind, THREADS)
        yield Variant(equal_kernel, {**_ROWS, **equal}, ranked, kind, THREADS)
