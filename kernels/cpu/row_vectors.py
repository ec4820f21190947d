"""The inner loop of a convolution that adds what entries read to a row of the target."""

from __future__ import annotations

from typing import Any

from gemkern.kernels.cpu.vectors import BYTES_OF_FLOAT, BYTES_OF_VECTOR, FLOAT, LONG, Emitter, long
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Vectors of a turn of the loop.
UNROLLED = 4


def row_adder(many: int) -> Any:
    """Return the loop that adds what `many` entries read to runs of vectors of a target.

    add(target, target_step, source, source_step, entries, values, pixels, vectors): there are
    `pixels` runs of `vectors` vectors, `target_step` and `source_step` bytes apart; an entry leads
    so many bytes on from `source`, and what it reads there is multiplied by its value.
    """

    def emit(builder, target, target_step, source, source_step, entries, values, pixels, vectors):
        at = Emitter(builder)
        bases, factors = [], []
        for number in range(many):
            entry = at.scalar(builder.add(entries, long(8 * number)), LONG)
            bases.append(builder.add(source, entry))
            place = builder.add(values, long(BYTES_OF_FLOAT * number))
            factors.append(at.spread(at.scalar(place, FLOAT)))
        full = builder.sdiv(vectors, long(UNROLLED))
        left = builder.srem(vectors, long(UNROLLED))
        behind = builder.mul(full, long(UNROLLED * BYTES_OF_VECTOR))

        def add_pixel(pixel: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            written = builder.add(target, builder.mul(pixel, target_step))
            further = builder.mul(pixel, source_step)
            read = [builder.add(base, further) for base in bases]

            def add_vectors(start: ir.Value, count: int) -> list[ir.Value]:
                for number in range(count):
                    here = builder.add(start, long(number * BYTES_OF_VECTOR))
                    total = at.load(builder.add(written, here))
                    for base, factor in zip(read, factors, strict=True):
                        total = at.multiply_add(at.load(builder.add(base, here)), factor, total)
                    at.store(total, builder.add(written, here))
                return []

            at.loop(
                full,
                [],
                lambda step, _: add_vectors(
                    builder.mul(step, long(UNROLLED * BYTES_OF_VECTOR)), UNROLLED
                ),
            )
            return at.loop(
                left,
                [],
                lambda step, _: add_vectors(
                    builder.add(behind, builder.mul(step, long(BYTES_OF_VECTOR))), 1
                ),
            )

        at.loop(pixels, [], add_pixel)

    @intrinsic
    def add(typingctx, target, target_step, source, source_step, entries, values, pixels, vectors):
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 8), codegen

    return add
