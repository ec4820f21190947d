"""The inner loops along stretches: a few entries at a time, through a whole row.

A *stretch* is memory without a gap, walked vector by vector; a row is one, or one for every pixel
where a stride leaps over others. A row of the target that stays in the
first-level cache is read and written anew for every few entries; in return what they read comes in
the order in which it lies, as fast as the further caches can give it, and the sum of an entry's
products is kept in a register for the whole row. That is for lists of few
entries; `patches.py` is for lists of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemkern.kernels.cpu.loops.reads import Reads, values_of
from gemkern.kernels.cpu.loops.vectors import ZEROS, Emitter, Vectors, from_row, long
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES_OF_SUM, BYTES_OF_VECTOR
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


def _address_of(
    at: Emitter, base: ir.Value, number: ir.Value, step: ir.Value, inside: ir.Value
) -> ir.Value:
    """Return the address of a vector of a stretch."""
    builder = at.builder
    return builder.add(builder.add(base, builder.mul(number, step)), inside)


def _each_vector(
    at: Emitter,
    stretches: ir.Value,
    vectors: ir.Value,
    carried: Vectors,
    body: Callable[[ir.Value, ir.Value, Vectors], Vectors],
) -> Vectors:
    """Run body(stretch, inside, carried) for all vectors of all stretches; return the last."""
    builder = at.builder
    full = builder.sdiv(vectors, long(UNROLLED))
    left = builder.srem(vectors, long(UNROLLED))
    behind = builder.mul(full, long(UNROLLED * BYTES_OF_VECTOR))

    def one_stretch(stretch: ir.Value, carried: Vectors) -> Vectors:
        def turn(step: ir.Value, carried: Vectors) -> Vectors:
            start = builder.mul(step, long(UNROLLED * BYTES_OF_VECTOR))
            for number in range(UNROLLED):
                inside = builder.add(start, long(number * BYTES_OF_VECTOR))
                carried = body(stretch, inside, carried)
            return carried

        def rest(step: ir.Value, carried: Vectors) -> Vectors:
            inside = builder.add(behind, builder.mul(step, long(BYTES_OF_VECTOR)))
            return body(stretch, inside, carried)

        return at.loop(left, at.loop(full, carried, turn), rest)

    return at.loop(stretches, carried, one_stretch)


def _by_groups(
    at: Emitter, count: ir.Value, sizes: Sequence[int], body: Callable[[ir.Value, int], None]
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


def _add_products(
    at: Emitter, sums: ir.Value, first: ir.Value, many: int, products: Vectors
) -> None:
    """Add products of `many` entries, which alternate, to their sums."""
    builder = at.builder
    for which in range(many):
        number = builder.add(first, long(which))
        place = builder.add(sums, builder.mul(number, long(BYTES_OF_SUM)))
        at.add_to_sum(products[which::many], place)


@intrinsic
def add_entries(
    typingctx, target, target_step, start, rows, source_step, pixel, entries, values, count,
    stretches, vectors,
):  # fmt: skip
    """Write `start` plus the sum of what a list of entries reads, times their values.

    add_entries(target, target_step, start, rows, source_step, pixel, entries, values, count,
    stretches, vectors): there are `stretches` of so many vectors, `target_step` and `source_step`
    bytes apart; where entry k reads is as `Reads` says, and its factor is values[k].
    """

    def emit(builder, target, target_step, start, rows, source_step, pixel, entries, values, count,
             stretches, vectors):  # fmt: skip
        at = Emitter(builder)
        reads = Reads(from_row, rows, pixel, entries)
        starts = at.spread(start)

        def add(first: ir.Value, many: int, fresh: bool) -> None:
            bases, factors = reads.bases(at, first, many), values_of(at, values, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, _: Vectors) -> Vectors:
                written = _address_of(at, target, number, target_step, inside)
                total = starts if fresh else at.load(written)
                for base, factor in zip(bases, factors, strict=True):
                    read = at.load(_address_of(at, base, number, source_step, inside))
                    total = at.multiply_add(read, factor, total)
                at.store(total, written)
                return []

            _each_vector(at, stretches, vectors, [], add_vector)

        _by_groups_of_target(at, count, ONE_KEPT, add)

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(whole, whole, types.float32, *[whole] * 8), codegen


@intrinsic
def multiply_entries(
    typingctx, x, x_step, rows, source_step, pixel, entries, count, sums, stretches, vectors
):
    """Add the products of what entries read with the input to their sums.

    multiply_entries(x, x_step, rows, source_step, pixel, entries, count, sums, stretches, vectors):
    the input is read at `x`, in stretches `x_step` bytes apart; otherwise as in `add_entries`.
    """

    def emit(
        builder, x, x_step, rows, source_step, pixel, entries, count, sums, stretches, vectors
    ):
        at = Emitter(builder)
        reads = Reads(from_row, rows, pixel, entries)

        def multiply(first: ir.Value, many: int) -> None:
            bases = reads.bases(at, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, products: Vectors) -> Vectors:
                of_input = at.load(_address_of(at, x, number, x_step, inside))
                made = []
                for base, before in zip(bases, products[:many], strict=True):
                    read = at.load(_address_of(at, base, number, source_step, inside))
                    made.append(at.multiply_add(read, of_input, before))
                # The next vector adds to the other sums.
                return products[many:] + made

            partial = many * -(-SUMS // many)
            products = _each_vector(at, stretches, vectors, [ZEROS] * partial, add_vector)
            _add_products(at, sums, first, many, products)

        _by_groups(at, count, ONE_KEPT, multiply)

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 10), codegen


@intrinsic
def lead_entries(
    typingctx, target, target_step, x, x_step, rows, source_step, pixel, entries, values, count,
    sums, stretches, vectors,
):  # fmt: skip
    """Do what `add_entries`, from 0, and `multiply_entries` do, in one; operands as there."""

    def emit(builder, target, target_step, x, x_step, rows, source_step, pixel, entries, values,
             count, sums, stretches, vectors):  # fmt: skip
        at = Emitter(builder)
        reads = Reads(from_row, rows, pixel, entries)

        def lead(first: ir.Value, many: int, fresh: bool) -> None:
            bases, factors = reads.bases(at, first, many), values_of(at, values, first, many)

            def add_vector(number: ir.Value, inside: ir.Value, products: Vectors) -> Vectors:
                written = _address_of(at, target, number, target_step, inside)
                of_input = at.load(_address_of(at, x, number, x_step, inside))
                total, made = ZEROS if fresh else at.load(written), []
                for base, factor, before in zip(bases, factors, products[:many], strict=True):
                    read = at.load(_address_of(at, base, number, source_step, inside))
                    total = at.multiply_add(read, factor, total)
                    made.append(at.multiply_add(read, of_input, before))
                at.store(total, written)
                return products[many:] + made

            products = _each_vector(at, stretches, vectors, [ZEROS] * (2 * many), add_vector)
            _add_products(at, sums, first, many, products)

        _by_groups_of_target(at, count, TWO_KEPT, lead)

    def codegen(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 13), codegen


@njit
def stretches_of(target_step, source_step, pixel, pixels):
    """Return how many stretches of how many vectors a row is: one, if pixels lie side by side."""
    if target_step == source_step == pixel:
        return 1, (pixels * pixel + BYTES_OF_VECTOR - 1) // BYTES_OF_VECTOR
    return pixels, pixel // BYTES_OF_VECTOR
