"""The inner loops over the entries of an output where all rows of a batch are one vector.

Vectors are as short as there are few rows; the longest take several registers. Entries are walked
in the order of their values, so that all of a pattern is read as it lies in memory.
"""

from __future__ import annotations

from typing import Any

from gemkern.kernels.cpu.loops.vectors import FLOAT, LONG, Emitter, Vectors, long
from gemkern.kernels.cpu.machine.lanes import BYTES, LANES
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Registers of sums that do not wait for each other.
SUMS = 8


def _entry(at: Emitter, entries: ir.Value, values: ir.Value, number: ir.Value) -> Vectors:
    """Return how many bytes on an entry reads, and its value, spread."""
    builder = at.builder
    offset = at.scalar(builder.add(entries, builder.mul(number, long(8))), LONG)
    value = at.scalar(builder.add(values, builder.mul(number, long(BYTES))), FLOAT)
    return [offset, at.spread(value)]


def _summing(lanes: int) -> Any:
    """Return the loop that makes an output of as many rows as there are lanes.

    add(made, start, x, entries, values, count): entry k reads x, entries[k] bytes on, and its
    factor is values[k]; `start` and all of them are summed and written to `made`.
    """

    @intrinsic
    def add(typingctx, made, start, x, entries, values, count):
        at_once = SUMS * LANES // max(lanes, LANES)

        def codegen(context, builder, signature, arguments):
            made, start, x, entries, values, count = arguments
            at = Emitter(builder, lanes=lanes)

            def one(number: ir.Value, total: ir.Value) -> ir.Value:
                offset, value = _entry(at, entries, values, number)
                return at.multiply_add(at.load(builder.add(x, offset)), value, total)

            rounds = builder.sdiv(count, long(at_once))
            done = builder.mul(rounds, long(at_once))
            sums = at.loop(
                rounds,
                [at.spread(start)] + [at.zeros] * (at_once - 1),
                lambda turn, sums: [
                    one(builder.add(builder.mul(turn, long(at_once)), long(place)), total)
                    for place, total in enumerate(sums)
                ],
            )
            rest = builder.sub(count, done)
            sums[:1] = at.loop(rest, sums[:1], lambda k, sums: [one(builder.add(done, k), *sums)])
            while sums[1:]:
                half = len(sums) // 2
                pairs = zip(sums[:half], sums[half:], strict=True)
                sums = [builder.fadd(*pair) for pair in pairs]
            at.store(sums[0], made)
            return context.get_dummy_value()

        return types.void(types.int64, types.float32, *(types.int64,) * 4), codegen

    return add


def _leading(lanes: int) -> Any:
    """Return the loop that leads the gradient of an output back to its entries and what they read.

    lead(grad, x, grad_x, entries, values, count, grad_values): entry k reads x, and adds to grad_x,
    entries[k] bytes on; the sum over the rows of what it reads times the gradient of the output is
    grad_values[k].
    """

    @intrinsic
    def lead(typingctx, grad, x, grad_x, entries, values, count, grad_values):
        def codegen(context, builder, signature, arguments):
            grad, x, grad_x, entries, values, count, grad_values = arguments
            at = Emitter(builder, lanes=lanes)
            gradient = at.load(grad)

            def one(number: ir.Value, _: Vectors) -> Vectors:
                offset, value = _entry(at, entries, values, number)
                read, led = (builder.add(start, offset) for start in (x, grad_x))
                product = at.total(builder.fmul(at.load(read), gradient))
                found = builder.add(grad_values, builder.mul(number, long(BYTES)))
                builder.store(product, at.pointer(found, FLOAT))
                at.store(at.multiply_add(gradient, value, at.load(led)), led)
                return []

            at.loop(count, [], one)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 7), codegen

    return lead


add_1, add_4, add_8, add_16 = map(_summing, (1, 4, 8, 16))
lead_1, lead_8, lead_16, lead_32, lead_64 = map(_leading, (1, 8, 16, 32, 64))
