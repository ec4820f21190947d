"""Loops over rows of pixels, one pass each: several rows read, several written, and sums made.

A row is `pixels` stretches of images, float32. Rows in the cache lie `near_step` bytes apart from
pixel to pixel, those of a tensor `far_step`. A stretch is `groups` times `vectors` whole vectors,
and `rest` images, which in the cache lie `near_group` bytes apart. While a row of a tensor is read,
the one `ahead` bytes on is fetched: no hardware guesses the jump from channel to channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gemkern.kernels.cpu.loops.vectors import FLOAT, LONG, Emitter, Vectors, long
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES_OF_VECTOR, LANES
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Numbers of a `shape`.
SHAPE = 8
# What is made of the vectors read and of the scalars: the vectors to write and those to sum.
Body = Callable[[Emitter, Vectors, Vectors], tuple[Vectors, Vectors]]


@njit
def one_stretch(size, ahead):
    """Return the shape of a row of `size` numbers that lies side by side wherever it lies."""
    return 1, 0, 0, size, 0, 0, 0, ahead


@njit
def size_of(shape):
    """Return how many numbers a row of a shape has."""
    return shape[0] * (shape[1] * shape[2] * LANES + shape[3])


def row_loop(reads: str, writes: str, scalars: int, sums: int, body: Body) -> Any:
    """Return a loop over rows: run(shape, rows, constants).

    Args:
        reads, writes: for each row "n" if it lies in the cache, near, or "f" if far, in a tensor;
            "s" if it is written past the caches, to where vectors are aligned.
        scalars: how many float32 `constants`, a tuple, holds; `rows` holds the addresses, and
            `shape` is (pixels, groups, vectors, rest, near_step, near_group, far_step, ahead).
        sums: how many sums `body` makes; the loop returns a tuple of them, float32.
    """
    places = reads + writes

    def emit(builder: ir.IRBuilder, arguments: Sequence[ir.Value]) -> Vectors:
        pixels, groups, vectors, rest, near_step, near_group, far_step, ahead = arguments[:SHAPE]
        rows, constants = arguments[SHAPE:][: len(places)], arguments[SHAPE + len(places) :]
        whole = Emitter(builder)
        spread = [whole.spread(constant) for constant in constants]
        others = builder.sdiv(rest, long(LANES))
        left = builder.srem(rest, long(LANES))
        some = builder.zext(builder.icmp_signed(">", left, long(0)), LONG)
        far_group = builder.mul(vectors, long(BYTES_OF_VECTOR))
        tail = Emitter(builder, left)

        def moved(bases: Vectors, number: ir.Value, near: ir.Value, far: ir.Value) -> Vectors:
            on = {"n": builder.mul(number, near)}
            on["f"] = on["s"] = builder.mul(number, far)
            return [builder.add(base, on[place]) for base, place in zip(bases, places, strict=True)]

        def vector(at: Emitter, bases: Vectors, step: ir.Value, totals: Vectors) -> Vectors:
            addresses = moved(bases, step, long(BYTES_OF_VECTOR), long(BYTES_OF_VECTOR))
            for place, address in zip(reads, addresses, strict=False):
                if place == "f":
                    at.prefetch(builder.add(address, ahead))
            read = [at.load(address) for address in addresses[: len(reads)]]
            written, added = body(at, read, spread)
            for place, value, address in zip(writes, written, addresses[len(reads) :], strict=True):
                (at.stream if place == "s" else at.store)(value, address)
            return [
                builder.fadd(total, at.only(value))
                for total, value in zip(totals, added, strict=True)
            ]

        def pixel(step: ir.Value, totals: Vectors) -> Vectors:
            bases = moved(rows, step, near_step, far_step)

            def one_group(number: ir.Value, totals: Vectors) -> Vectors:
                of_group = moved(bases, number, near_group, far_group)
                return whole.loop(vectors, totals, lambda s, t: vector(whole, of_group, s, t))

            totals = whole.loop(groups, totals, one_group)
            last = moved(bases, groups, near_group, far_group)
            totals = whole.loop(others, totals, lambda s, t: vector(whole, last, s, t))
            return whole.loop(some, totals, lambda s, t: vector(tail, last, others, t))

        totals = whole.loop(pixels, [whole.spread(ir.Constant(FLOAT, 0.0))] * sums, pixel)
        return [whole.total(total) for total in totals]

    @intrinsic
    def run(typingctx, shape, rows, constants):
        returned = types.UniTuple(types.float32, sums) if sums else types.void
        signature = returned(
            types.UniTuple(types.int64, SHAPE),
            types.UniTuple(types.int64, len(places)),
            types.UniTuple(types.float32, scalars) if scalars else types.Tuple(()),
        )

        def codegen(context, builder, signature, arguments):
            counts = (SHAPE, len(places), scalars)
            unpacked = [
                builder.extract_value(argument, place)
                for argument, count in zip(arguments, counts, strict=True)
                for place in range(count)
            ]
            totals = emit(builder, unpacked)
            if not sums:
                return context.get_dummy_value()
            return context.make_tuple(builder, signature.return_type, totals)

        return signature, codegen

    return run


def reading(norm: bool, residual: bool, keep: bool) -> Any:
    """Return the loop that reads x and a residual, normalises them, and writes ring and kept.

    Its constants are mean, scale, shift and least, if there is a norm.
    """

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        value = read[0]
        if norm:
            mean, scale, shift, least = constants
            away = at.builder.fsub(value, mean)
            value = at.multiply_add(away, scale, shift)
            if residual:
                value = at.builder.fadd(value, read[1])
            value = at.at_least(value, least)
        return [value] * (1 + keep), []

    return row_loop("f" * (1 + residual), "n" + "f" * keep, 4 * norm, 0, body)


def writing(added: bool, streamed: bool) -> Any:
    """Return the loop that writes results plus what is added; it sums value - pivot and squares."""

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        value = at.builder.fadd(read[0], read[1]) if added else read[0]
        away = at.builder.fsub(value, constants[0])
        return [value], [away, at.builder.fmul(away, away)]

    return row_loop("n" + "f" * added, "s" if streamed else "f", 1, 2, body)


def totalling(added: bool) -> Any:
    """Return the loop that sums results plus what is added."""

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        return [], [at.builder.fadd(read[0], read[1]) if added else read[0]]

    return row_loop("n" + "f" * added, "", 0, 1, body)


def reading_grad(written: bool) -> Any:
    """Return the loop that reads a gradient and y, adds what moments owe to y, and writes a ring.

    Its constants are constant, slope and mean; `written` is whether it writes to a tensor as well.
    """

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        constant, slope, mean = constants
        away = at.builder.fsub(read[1], mean)
        value = at.builder.fadd(read[0], at.multiply_add(away, slope, constant))
        return [value] * (1 + written), []

    return row_loop("ff", "n" + "f" * written, 3, 0, body)


def leading_back(kept: bool, skip: bool, residual: bool, streamed: bool) -> Any:
    """Return the loop that leads a gradient through ReLU and norm to x, and to a residual.

    It reads the gradient and the result of the ReLU in the cache, x, and what gradients the result
    (`kept`) and x (`skip`) have from elsewhere; what it writes goes past the caches if `streamed`.
    Its constants are mean, scale and least; it sums the gradient behind the ReLU, and its product
    with x - mean.
    """

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        builder = at.builder
        gradient, result, x, *others = read
        mean, scale, least = constants
        if kept:
            gradient = builder.fadd(gradient, others.pop(0))
        closed = builder.fcmp_ordered("<=", result, least)
        gradient = builder.select(closed, at.zeros, gradient)
        scaled = builder.fmul(gradient, scale)
        if skip:
            scaled = builder.fadd(scaled, others.pop(0))
        away = builder.fsub(x, mean)
        return [scaled, gradient][: 1 + residual], [gradient, builder.fmul(gradient, away)]

    writes = ("s" if streamed else "f") * (1 + residual)
    return row_loop("nnf" + "f" * (kept + skip), writes, 3, 2, body)


def adding(added: bool, streamed: bool) -> Any:
    """Return the loop that writes a row of the cache, plus one of a tensor, to a tensor."""

    def body(at: Emitter, read: Vectors, constants: Vectors) -> tuple[Vectors, Vectors]:
        return [at.builder.fadd(read[0], read[1]) if added else read[0]], []

    return row_loop("n" + "f" * added, "s" if streamed else "f", 0, 0, body)
