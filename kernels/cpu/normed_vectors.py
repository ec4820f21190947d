"""The inner loop of a convolution that normalises what it reads and measures what it writes."""

from __future__ import annotations

from typing import Any

from gemkern.kernels.cpu.vectors import (
    BYTES_OF_FLOAT,
    BYTES_OF_SUM,
    FLOAT,
    LONG,
    ZEROS,
    Emitter,
    long,
)
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Numbers of an entry: its value, and mean, scale and shift of the channel that it reads.
FACTORS = 4
# Sums over pixels that do not wait for each other.
PARTIAL = 4


def normed_accumulator(pixels: int, vectors: int, streamed: bool) -> Any:
    """Return the loop that makes one output channel of a few pixels of a normalised input.

    accumulate(target, target_step, source, source_step, entries, factors, count, start, least,
    added, added_step, pivot, sums) writes to `pixels` pixels at `target`, `target_step` bytes
    apart, `start` plus what is `added` there plus, for each of `count` entries, its value times
    max((x - mean) * scale + shift, least) of the pixels x that it reads, so many bytes on from
    `source`. It adds to the two sums at `sums` what is written less `pivot`, and the square of
    that. `streamed` results go past the caches.
    """

    def emit(builder, target, target_step, source, source_step, entries, factors, count, start,
             least, added, added_step, pivot, sums):  # fmt: skip
        at = Emitter(builder)
        floor, centre = at.spread(least), at.spread(pivot)

        def add_entry(step: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            entry = at.scalar(builder.add(entries, builder.mul(step, long(8))), LONG)
            place = builder.add(factors, builder.mul(step, long(FACTORS * BYTES_OF_FLOAT)))
            value, mean, scale, shift = (
                at.spread(at.scalar(builder.add(place, long(number * BYTES_OF_FLOAT)), FLOAT))
                for number in range(FACTORS)
            )
            made = []
            read = at.places(builder.add(source, entry), source_step, pixels, vectors)
            for address, total in zip(read, totals, strict=True):
                away = builder.fsub(at.load(address), mean)
                normed = at.at_least(at.multiply_add(away, scale, shift), floor)
                made.append(at.multiply_add(normed, value, total))
            return made

        totals = at.loop(count, [at.spread(start)] * (pixels * vectors), add_entry)
        once, twice = [ZEROS] * PARTIAL, [ZEROS] * PARTIAL
        store = at.stream if streamed else at.store
        places = at.places(target, target_step, pixels, vectors)
        of_added = at.places(added, added_step, pixels, vectors)
        for number, (place, more) in enumerate(zip(places, of_added, strict=True)):
            total = builder.fadd(totals[number], at.load(more))
            store(total, place)
            away, part = builder.fsub(total, centre), number % PARTIAL
            once[part] = builder.fadd(once[part], away)
            twice[part] = at.multiply_add(away, away, twice[part])
        at.add_to_sum(once, sums)
        at.add_to_sum(twice, builder.add(sums, long(BYTES_OF_SUM)))

    @intrinsic
    def accumulate(typingctx, target, target_step, source, source_step, entries, factors, count,
                   start, least, added, added_step, pivot, sums):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        whole, real = types.int64, types.float32
        operands = (*[whole] * 7, real, real, whole, whole, real, whole)
        return types.void(*operands), codegen

    return accumulate
