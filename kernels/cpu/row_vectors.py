"""The inner loops over a row of a channel: a few entries at a time, each a long run of memory.

A row that stays in the first-level cache is read and written anew for every few entries; in return
what they read comes in the order in which it lies, as fast as the further caches can give it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemkern.kernels.cpu.vectors import (
    BYTES_OF_FLOAT,
    BYTES_OF_SUM,
    BYTES_OF_VECTOR,
    FLOAT,
    LONG,
    ZEROS,
    Emitter,
    from_row,
    long,
)
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Vectors of a turn of the loop.
UNROLLED = 4
# Sums of products that do not wait for each other.
SUMS = 4
Vectors = list[ir.Value]


def _runs(
    at: Emitter,
    pixels: ir.Value,
    vectors: ir.Value,
    carried: Vectors,
    body: Callable[[ir.Value, ir.Value, Vectors], Vectors],
) -> Vectors:
    """Run body(pixel, bytes, carried) for every vector of every pixel; return what it carries."""
    builder = at.builder
    full = builder.sdiv(vectors, long(UNROLLED))
    left = builder.srem(vectors, long(UNROLLED))
    behind = builder.mul(full, long(UNROLLED * BYTES_OF_VECTOR))

    def some(pixel: ir.Value, start: ir.Value, count: int, carried: Vectors) -> Vectors:
        for number in range(count):
            carried = body(pixel, builder.add(start, long(number * BYTES_OF_VECTOR)), carried)
        return carried

    def one_pixel(pixel: ir.Value, carried: Vectors) -> Vectors:
        def turn(step: ir.Value, carried: Vectors) -> Vectors:
            start = builder.mul(step, long(UNROLLED * BYTES_OF_VECTOR))
            return some(pixel, start, UNROLLED, carried)

        def rest(step: ir.Value, carried: Vectors) -> Vectors:
            start = builder.add(behind, builder.mul(step, long(BYTES_OF_VECTOR)))
            return some(pixel, start, 1, carried)

        return at.loop(left, at.loop(full, carried, turn), rest)

    return at.loop(pixels, carried, one_pixel)


def _entries(
    at: Emitter,
    many: int,
    source_of: Callable[..., ir.Value],
    rows: ir.Value,
    shift: ir.Value,
    pixel: ir.Value,
    entries: ir.Value,
    values: ir.Value,
) -> tuple[Vectors, Vectors]:
    """Return where entries read, and their values."""
    builder = at.builder
    bases, factors = [], []
    for number in range(many):
        entry = at.scalar(builder.add(entries, long(8 * number)), LONG)
        bases.append(builder.add(source_of(at, rows, entry, pixel), shift))
        place = builder.add(values, long(BYTES_OF_FLOAT * number))
        factors.append(at.spread(at.scalar(place, FLOAT)))
    return bases, factors


def row_adder(many: int, source_of: Callable[..., ir.Value] = from_row) -> Any:
    """Return the loop that adds what `many` entries read to runs of vectors of a target.

    add(target, target_step, rows, shift, source_step, pixel, entries, values, pixels, vectors):
    there are `pixels` runs of `vectors` vectors, `target_step` and `source_step` bytes apart. What
    entry k reads is multiplied by values[k]; it lies `shift` bytes on from where the entry says, in
    rows of pixels of `pixel` bytes that begin at the addresses `rows`. With `from_start`, an entry
    says it in bytes, and `rows` is what they are counted from.
    """

    def emit(builder, target, target_step, rows, shift, source_step, pixel, entries, values, pixels,
             vectors):  # fmt: skip
        at = Emitter(builder)
        bases, factors = _entries(at, many, source_of, rows, shift, pixel, entries, values)

        def add_vector(number: ir.Value, inside: ir.Value, _: Vectors) -> Vectors:
            written = builder.add(builder.add(target, builder.mul(number, target_step)), inside)
            further = builder.add(builder.mul(number, source_step), inside)
            total = at.load(written)
            for base, factor in zip(bases, factors, strict=True):
                total = at.multiply_add(at.load(builder.add(base, further)), factor, total)
            at.store(total, written)
            return []

        _runs(at, pixels, vectors, [], add_vector)

    @intrinsic
    def add(typingctx, target, target_step, rows, shift, source_step, pixel, entries, values,
            pixels, vectors):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 10), codegen

    return add


def row_gradients(many: int) -> Any:
    """Return the loop that makes both gradients of `many` entries over runs of vectors.

    lead_back(target, target_step, x, x_step, rows, shift, source_step, pixel, entries, values,
    sums, pixels, vectors) adds to the target as `row_adder` does, and the products of what the
    entries read with the input at `x`, whose pixels lie `x_step` bytes apart, to their sums.
    """
    partial = max(1, SUMS // many)

    def emit(builder, target, target_step, x, x_step, rows, shift, source_step, pixel, entries,
             values, sums, pixels, vectors):  # fmt: skip
        at = Emitter(builder)
        bases, factors = _entries(at, many, from_row, rows, shift, pixel, entries, values)

        def add_vector(number: ir.Value, inside: ir.Value, products: Vectors) -> Vectors:
            written = builder.add(builder.add(target, builder.mul(number, target_step)), inside)
            further = builder.add(builder.mul(number, source_step), inside)
            of_input = at.load(builder.add(builder.add(x, builder.mul(number, x_step)), inside))
            total, made = at.load(written), []
            for which, (base, factor) in enumerate(zip(bases, factors, strict=True)):
                read = at.load(builder.add(base, further))
                total = at.multiply_add(read, factor, total)
                made.append(at.multiply_add(read, of_input, products[which]))
            at.store(total, written)
            # The next vector adds to the other sums.
            return products[many:] + made

        products = _runs(at, pixels, vectors, [ZEROS] * (many * partial), add_vector)
        for which in range(many):
            place = builder.add(sums, long(which * BYTES_OF_SUM))
            at.add_to_sum(products[which::many], place)

    @intrinsic
    def lead_back(typingctx, target, target_step, x, x_step, rows, shift, source_step, pixel,
                  entries, values, sums, pixels, vectors):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 13), codegen

    return lead_back
