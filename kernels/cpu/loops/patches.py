"""The inner loops over patches: a few vectors of a row, which stay in registers for a whole list.

A *patch* is up to PATCH vectors of a row of the target that lie side by side, of pixels, of images
or of both. Every entry of a list reads a patch of the source and adds it, times its value; or its
product with a patch of the input is the entry's gradient. For an entry nothing of the target is
read or written, and what it reads lies in the first-level cache where lists are cut to fit it. That
is for lists of many entries; `stretches.py` is for lists of few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemkern.kernels.cpu.loops.reads import Reads, values_of
from gemkern.kernels.cpu.loops.vectors import (
    FLOAT,
    VECTOR,
    ZEROS,
    Emitter,
    Vectors,
    from_row,
    from_start,
    long,
)
from gemkern.kernels.cpu.machine.lanes import BYTES_OF_SUM, BYTES_OF_VECTOR, PATCH
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Sums that do not wait for each other.
SUMS = 8


def _patch(at: Emitter, address: ir.Value, size: int) -> Vectors:
    """Return the vectors of a patch at an address."""
    places = (at.builder.add(address, long(number * BYTES_OF_VECTOR)) for number in range(size))
    return [at.load(place) for place in places]


def _store(at: Emitter, patch: Vectors, address: ir.Value) -> None:
    for number, vector in enumerate(patch):
        at.store(vector, at.builder.add(address, long(number * BYTES_OF_VECTOR)))


def _begun(at: Emitter, target: ir.Value, start: ir.Value, fresh: ir.Value, size: int) -> Vectors:
    """Return a patch of the target as it is, or `start` in all of it if it is a fresh one."""
    builder, starts = at.builder, at.spread(start)
    before = builder.block
    read, after = (builder.append_basic_block(f"patch.{name}") for name in ("read", "begun"))
    builder.cbranch(fresh, after, read)
    builder.position_at_end(read)
    vectors = _patch(at, target, size)
    builder.branch(after)
    builder.position_at_end(after)
    begun = [builder.phi(VECTOR) for _ in vectors]
    for phi, vector in zip(begun, vectors, strict=True):
        phi.add_incoming(starts, before)
        phi.add_incoming(vector, read)
    return begun


def _each_size(at: Emitter, size: ir.Value, body: Callable[[int], None]) -> None:
    """Run body(size), which is written for every size of a patch."""
    builder = at.builder
    after = builder.append_basic_block("patch.after")
    switch = builder.switch(size, after)
    for one in range(1, PATCH + 1):
        block = builder.append_basic_block(f"patch.{one}")
        switch.add_case(long(one), block)
        builder.position_at_end(block)
        body(one)
        builder.branch(after)
    builder.position_at_end(after)


def _summed(
    at: Emitter, count: ir.Value, begun: Vectors, at_once: int, add: Callable[..., Vectors]
) -> Vectors:
    """Return what add(number, patch) makes of a patch, entry after entry.

    Entries of patches of less than `at_once` vectors take turns in adding to patches of their own,
    which are summed in the end: of one vector alone there is nothing else to do meanwhile.
    """
    builder, size = at.builder, len(begun)
    turns = max(1, at_once // size)
    rounds = builder.sdiv(count, long(turns))
    done = builder.mul(rounds, long(turns))

    def one_round(number: ir.Value, carried: Vectors) -> Vectors:
        first, made = builder.mul(number, long(turns)), []
        for turn in range(turns):
            patch = carried[turn * size : (turn + 1) * size]
            made += add(builder.add(first, long(turn)), patch)
        return made

    def rest(number: ir.Value, patch: Vectors) -> Vectors:
        return add(builder.add(done, number), patch)

    patches = at.loop(rounds, begun + [ZEROS] * (size * (turns - 1)), one_round)
    if turns > 1:
        patches[:size] = at.loop(builder.sub(count, done), patches[:size], rest)
    total = patches[:size]
    for turn in range(1, turns):
        others = patches[turn * size : (turn + 1) * size]
        total = [builder.fadd(*pair) for pair in zip(total, others, strict=True)]
    return total


def _add_product(
    at: Emitter, sums: ir.Value, number: ir.Value, of_input: Vectors, read: Vectors
) -> None:
    """Add the product of two patches to the sum of an entry."""
    builder = at.builder
    totals: Vectors = []
    for turn, pair in enumerate(zip(of_input, read, strict=True)):
        if turn < 2:
            totals.append(builder.fmul(*pair))
        else:
            totals[turn % 2] = at.multiply_add(*pair, totals[turn % 2])
    at.add_to_sum(totals, builder.add(sums, builder.mul(number, long(BYTES_OF_SUM))))


def _adder(source_of: Callable[..., ir.Value], at_once: int) -> Any:
    """Return the loop that adds what a list of entries reads to a patch of the target.

    add(target, start, rows, inside, pixel, entries, values, count, size, fresh): the patch has
    `size` vectors; entry k reads `inside` bytes behind where `Reads` says, and its factor is
    values[k]; a fresh patch begins as `start`.
    """

    def emit(builder, target, start, rows, inside, pixel, entries, values, count, size, fresh):
        at = Emitter(builder)
        reads = Reads(source_of, rows, pixel, entries)

        def of_size(size: int) -> None:
            def add(number: ir.Value, patch: Vectors) -> Vectors:
                (base,), (value,) = reads.bases(at, number, 1), values_of(at, values, number, 1)
                read = _patch(at, builder.add(base, inside), size)
                pairs = zip(read, patch, strict=True)
                return [at.multiply_add(vector, value, total) for vector, total in pairs]

            begun = _begun(at, target, start, fresh, size)
            _store(at, _summed(at, count, begun, at_once, add), target)

        _each_size(at, size, of_size)

    @intrinsic
    def add_patches(typingctx, target, start, rows, inside, pixel, entries, values, count, size,
                    fresh):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(whole, types.float32, *[whole] * 7, types.boolean), codegen

    return add_patches


def _multiplier(source_of: Callable[..., ir.Value]) -> Any:
    """Return the loop that adds the products of what entries read with the input to their sums.

    multiply(x, rows, inside, pixel, entries, count, sums, size): the patch of the input lies at
    `x`; otherwise as in `_adder`.
    """

    def emit(builder, x, rows, inside, pixel, entries, count, sums, size):
        at = Emitter(builder)
        reads = Reads(source_of, rows, pixel, entries)

        def of_size(size: int) -> None:
            of_input = _patch(at, x, size)

            def multiply(number: ir.Value, _: Vectors) -> Vectors:
                (base,) = reads.bases(at, number, 1)
                read = _patch(at, builder.add(base, inside), size)
                _add_product(at, sums, number, of_input, read)
                return []

            at.loop(count, [], multiply)

        _each_size(at, size, of_size)

    @intrinsic
    def multiply_patches(typingctx, x, rows, inside, pixel, entries, count, sums, size):
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 8), codegen

    return multiply_patches


def _leading(source_of: Callable[..., ir.Value], at_once: int) -> Any:
    """Return the loop that does what `add_patches`, from 0, and `multiply_patches` do, in one.

    lead(target, x, rows, inside, pixel, entries, values, count, sums, size, fresh): operands as in
    `_adder` and `_multiplier`.
    """

    def emit(builder, target, x, rows, inside, pixel, entries, values, count, sums, size, fresh):
        at = Emitter(builder)
        reads = Reads(source_of, rows, pixel, entries)

        def of_size(size: int) -> None:
            of_input = _patch(at, x, size)

            def lead(number: ir.Value, patch: Vectors) -> Vectors:
                (base,), (value,) = reads.bases(at, number, 1), values_of(at, values, number, 1)
                read = _patch(at, builder.add(base, inside), size)
                _add_product(at, sums, number, of_input, read)
                pairs = zip(read, patch, strict=True)
                return [at.multiply_add(vector, value, total) for vector, total in pairs]

            begun = _begun(at, target, ir.Constant(FLOAT, 0.0), fresh, size)
            _store(at, _summed(at, count, begun, at_once, lead), target)

        _each_size(at, size, of_size)

    @intrinsic
    def lead_patches(typingctx, target, x, rows, inside, pixel, entries, values, count, sums, size,
                     fresh):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 10, types.boolean), codegen

    return lead_patches


# In a convolution an entry is added after the other, as along stretches, whatever the patch.
add_patches, add_patches_from_start = _adder(from_row, 1), _adder(from_start, SUMS)
multiply_patches, multiply_patches_from_start = _multiplier(from_row), _multiplier(from_start)
lead_patches, lead_patches_from_start = _leading(from_row, 1), _leading(from_start, SUMS)
