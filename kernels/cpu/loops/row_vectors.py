"""The inner loops over a row of a channel: a few entries at a time, each a long stretch of memory.

A row that stays in the first-level cache is read and written anew for every few entries; in return
what they read comes in the order in which it lies, as fast as the further caches can give it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gemkern.kernels.cpu.loops.vectors import (
    FLOAT,
    LONG,
    ZEROS,
    Emitter,
    from_row,
    from_start,
    long,
)
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_SUM, BYTES_OF_VECTOR
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Vectors of a turn of the loop.
UNROLLED = 4
# Entries that are walked at once, the most first: as many as there are registers for what they keep
# there, a value or a sum, or both.
ONE_KEPT, TWO_KEPT = (8, 4, 3, 2, 1), (4, 3, 2, 1)
# Sums of products that do not wait for each other.
SUMS = 8
Vectors = list[ir.Value]


def _address_of(
    at: Emitter, base: ir.Value, number: ir.Value, step: ir.Value, inside: ir.Value
) -> ir.Value:
    """Return the address of a vector of a pixel."""
    builder = at.builder
    return builder.add(builder.add(base, builder.mul(number, step)), inside)


class Reads(NamedTuple):
    """What a list of entries reads, as operands of a loop.

    An entry says where it reads in rows of pixels of `pixel` bytes, which begin at the addresses
    `rows`, or in bytes from `rows` on, as `source_of` understands it; from there on it reads pixels
    that lie `step` bytes apart.
    """

    source_of: Callable[..., ir.Value]
    rows: ir.Value
    step: ir.Value
    pixel: ir.Value
    entries: ir.Value

    def bases(self, at: Emitter, first: ir.Value, many: int) -> Vectors:
        """Return where `many` entries read, from the `first` one on."""
        builder = at.builder
        listed = builder.add(self.entries, builder.mul(first, long(8)))
        found = []
        for number in range(many):
            entry = at.scalar(builder.add(listed, long(8 * number)), LONG)
            found.append(self.source_of(at, self.rows, entry, self.pixel))
        return found

    def vector(self, at: Emitter, base: ir.Value, pixel: ir.Value, inside: ir.Value) -> ir.Value:
        """Return a vector of a pixel of what is read from `base` on."""
        return at.load(_address_of(at, base, pixel, self.step, inside))


def _each_vector(
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


def _by_groups(
    at: Emitter,
    count: ir.Value,
    sizes: Sequence[int],
    body: Callable[[ir.Value, int], None],
) -> None:
    """Run body(first, many) for groups of `many` of the `count` entries, large groups first."""
    builder = at.builder
    done: ir.Value = long(0)
    for many in sizes:
        groups = builder.sdiv(builder.sub(count, done), long(many))

        def group(number: ir.Value, _: Vectors, done: ir.Value = done, many: int = many) -> Vectors:
            body(builder.add(done, builder.mul(number, long(many))), many)
            return []

        at.loop(groups, [], group)
        done = builder.add(done, builder.mul(groups, long(many)))


def _by_groups_of_target(
    at: Emitter,
    count: ir.Value,
    sizes: Sequence[int],
    body: Callable[[ir.Value, int, bool], None],
) -> None:
    """Run body(first, many, fresh) for groups of the entries; `fresh` is the target's first one.

    That is a group of none where there are no entries.
    """
    builder = at.builder
    none = long(0)
    with builder.if_then(builder.icmp_signed("==", count, none)):
        body(none, 0, True)

    def group(first: ir.Value, many: int) -> None:
        fresh = builder.icmp_signed("==", first, none)
        with builder.if_else(fresh) as (then, otherwise):
            with then:
                body(first, many, True)
            with otherwise:
                body(first, many, False)

    _by_groups(at, count, sizes, group)


def _values(at: Emitter, values: ir.Value, first: ir.Value, many: int) -> Vectors:
    """Return the values of `many` entries, each in all lanes."""
    builder = at.builder
    start = builder.add(values, builder.mul(first, long(BYTES)))
    places = (builder.add(start, long(number * BYTES)) for number in range(many))
    return [at.spread(at.scalar(place, FLOAT)) for place in places]


def _add_products(
    at: Emitter, sums: ir.Value, first: ir.Value, many: int, products: Vectors
) -> None:
    """Add products of `many` entries, which alternate, to their sums."""
    builder = at.builder
    for which in range(many):
        number = builder.add(first, long(which))
        place = builder.add(sums, builder.mul(number, long(BYTES_OF_SUM)))
        at.add_to_sum(products[which::many], place)


def _adder(source_of: Callable[..., ir.Value]) -> Any:
    """Return the loop that writes `start` plus the sum of what a list of entries reads.

    add(target, target_step, start, rows, source_step, pixel, entries, values, count, pixels,
    vectors): there are `pixels` stretches of `vectors` vectors, `target_step` and `source_step`
    bytes apart. What entry k reads, as `Reads` says, is multiplied by values[k].
    """

    def emit(builder, target, target_step, start, rows, source_step, pixel, entries, values,
             count, pixels, vectors):  # fmt: skip
        at = Emitter(builder)
        reads = Reads(source_of, rows, source_step, pixel, entries)
        starts = at.spread(start)

        def add(first: ir.Value, many: int, fresh: bool) -> None:
            bases, factors = reads.bases(at, first, many), _values(at, values, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, _: Vectors) -> Vectors:
                written = _address_of(at, target, number, target_step, inside)
                total = starts if fresh else at.load(written)
                for base, factor in zip(bases, factors, strict=True):
                    read = reads.vector(at, base, number, inside)
                    total = at.multiply_add(read, factor, total)
                at.store(total, written)
                return []

            _each_vector(at, pixels, vectors, [], add_vector)

        _by_groups_of_target(at, count, ONE_KEPT, add)

    @intrinsic
    def add_entries(typingctx, target, target_step, start, rows, source_step, pixel, entries,
                    values, count, pixels, vectors):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(whole, whole, types.float32, *[whole] * 8), codegen

    return add_entries


def _multiplier(source_of: Callable[..., ir.Value]) -> Any:
    """Return the loop that adds the products of what entries read with the input to their sums.

    multiply(x, x_step, rows, source_step, pixel, entries, count, sums, pixels, vectors): the
    input is read at `x`, where pixels lie `x_step` bytes apart; otherwise as in `_adder`.
    """

    def emit(builder, x, x_step, rows, source_step, pixel, entries, count, sums, pixels,
             vectors):  # fmt: skip
        at = Emitter(builder)
        reads = Reads(source_of, rows, source_step, pixel, entries)

        def multiply(first: ir.Value, many: int) -> None:
            bases = reads.bases(at, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, products: Vectors) -> Vectors:
                of_input = at.load(_address_of(at, x, number, x_step, inside))
                made = []
                for base, before in zip(bases, products[:many], strict=True):
                    read = reads.vector(at, base, number, inside)
                    made.append(at.multiply_add(read, of_input, before))
                # The next vector adds to the other sums.
                return products[many:] + made

            partial = many * -(-SUMS // many)
            products = _each_vector(at, pixels, vectors, [ZEROS] * partial, add_vector)
            _add_products(at, sums, first, many, products)

        _by_groups(at, count, ONE_KEPT, multiply)

    @intrinsic
    def multiply_entries(typingctx, x, x_step, rows, source_step, pixel, entries, count,
                         sums, pixels, vectors):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 10), codegen

    return multiply_entries


def _leading(source_of: Callable[..., ir.Value]) -> Any:
    """Return the loop that does what `add_entries`, from 0, and `multiply_entries` do, in one.

    lead(target, target_step, x, x_step, rows, source_step, pixel, entries, values, count, sums,
    pixels, vectors): operands as in `_adder` and `_multiplier`.
    """

    def emit(builder, target, target_step, x, x_step, rows, source_step, pixel, entries,
             values, count, sums, pixels, vectors):  # fmt: skip
        at = Emitter(builder)
        reads = Reads(source_of, rows, source_step, pixel, entries)

        def lead(first: ir.Value, many: int, fresh: bool) -> None:
            bases, factors = reads.bases(at, first, many), _values(at, values, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, products: Vectors) -> Vectors:
                written = _address_of(at, target, number, target_step, inside)
                of_input = at.load(_address_of(at, x, number, x_step, inside))
                total, made = ZEROS if fresh else at.load(written), []
                for base, factor, before in zip(bases, factors, products[:many], strict=True):
                    read = reads.vector(at, base, number, inside)
                    total = at.multiply_add(read, factor, total)
                    made.append(at.multiply_add(read, of_input, before))
                at.store(total, written)
                return products[many:] + made

            products = _each_vector(at, pixels, vectors, [ZEROS] * (2 * many), add_vector)
            _add_products(at, sums, first, many, products)

        _by_groups_of_target(at, count, TWO_KEPT, lead)

    @intrinsic
    def lead_entries(typingctx, target, target_step, x, x_step, rows, source_step, pixel,
                     entries, values, count, sums, pixels, vectors):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 13), codegen

    return lead_entries


@intrinsic
def sum_entries(typingctx, target, start, source, entries, values, count):
    """Do what `add_entries_from_start` does for a target of one vector, which stays in registers.

    Sums that do not wait for each other take turns: of one vector alone there is nothing else to do
    meanwhile.
    """

    def emit(builder, target, start, source, entries, values, count):
        at = Emitter(builder)
        reads = Reads(from_start, source, long(0), long(0), entries)

        def add(first: ir.Value, sums: Vectors) -> Vectors:
            many = len(sums)
            bases, factors = reads.bases(at, first, many), _values(at, values, first, many)
            operands = zip(map(at.load, bases), factors, sums, strict=True)
            return [at.multiply_add(*of_one) for of_one in operands]

        def group(number: ir.Value, sums: Vectors) -> Vectors:
            return add(builder.mul(number, long(SUMS)), sums)

        groups = builder.sdiv(count, long(SUMS))
        done = builder.mul(groups, long(SUMS))
        first, *others = at.loop(groups, [at.spread(start), *[ZEROS] * (SUMS - 1)], group)

        def rest(number: ir.Value, sums: Vectors) -> Vectors:
            return add(builder.add(done, number), sums)

        sums = [*at.loop(builder.sub(count, done), [first], rest), *others]
        while len(sums) > 1:
            sums = [builder.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        at.store(sums[0], target)

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(whole, types.float32, *[whole] * 4), codegen


add_entries, add_entries_from_start = _adder(from_row), _adder(from_start)
multiply_entries, multiply_entries_from_start = _multiplier(from_row), _multiplier(from_start)
lead_entries, lead_entries_from_start = _leading(from_row), _leading(from_start)


@njit
def stretches_of(target_step, source_step, pixels, bytes_of_pixel, vectors):
    """Return how many stretches of how many vectors a row is: one, if pixels lie side by side."""
    if target_step == source_step == bytes_of_pixel:
        return 1, pixels * vectors
    return pixels, vectors
