"""The loop over a row of windows that normalises pixels and keeps the maximum in registers.

Numba keeps no vector in a register from one pixel of a window to the next: the loop is written in
LLVM's language, as those of `gemkern.kernels.cpu.loops.vectors` are.
"""

from __future__ import annotations

import math

from gemkern.kernels.cpu.loops.vectors import INT, LONG, VECTOR, Emitter, long
from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_VECTOR, LANES
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BYTE = ir.IntType(8)
TAP_VECTOR = ir.VectorType(INT, LANES)
LOWEST = ir.Constant(VECTOR, [-math.inf] * LANES)
FIRST = ir.Constant(TAP_VECTOR, [0] * LANES)
ONES = ir.Constant(TAP_VECTOR, [1] * LANES)


def _store_bytes(at: Emitter, taps: ir.Value, address: ir.Value) -> None:
    """Store numbers below 256 as bytes."""
    narrow = at.builder.trunc(taps, ir.VectorType(BYTE, LANES))
    pointer = at.pointer(address, narrow.type)
    if at.mask is None:
        at.builder.store(narrow, pointer, align=1)
        return
    name = f"llvm.masked.store.v{LANES}i8.p0"
    at.call(name, ir.VoidType(), [narrow, pointer, ir.Constant(INT, 1), at.mask])


def _larger(at: Emitter, value: ir.Value, best: ir.Value) -> ir.Value:
    """Return where a value takes the maximum's place: a NaN always does."""
    greater = at.builder.fcmp_ordered(">", value, best)
    return at.builder.or_(greater, at.builder.fcmp_unordered("uno", value, value))


@intrinsic
def norm_maximum(typingctx, shape, rows, constants):
    """Write the maxima of a row of windows, normalised, and their taps.

    norm_maximum(shape, rows, constants): `shape` is (windows, size, kernel_height, kernel_width,
    row_step, window_step, ahead): pixels are stretches of `size` images, float32; rows of pixels
    and windows lie so many bytes apart; what lies `ahead` bytes on is fetched. `rows` are the
    addresses of x, y and taps, `constants` mean, scale, shift and least of the channel, float32.
    """
    signature = types.void(
        types.UniTuple(types.int64, 7),
        types.UniTuple(types.int64, 3),
        types.UniTuple(types.float32, 4),
    )

    def codegen(context, builder, signature, arguments):
        (windows, size, height, width, row_step, window_step, ahead), (x, y, taps), norm = (
            [builder.extract_value(argument, place) for place in range(count)]
            for argument, count in zip(arguments, (7, 3, 4), strict=True)
        )
        whole = Emitter(builder)
        mean, scale, shift, least = map(whole.spread, norm)
        full, left = builder.sdiv(size, long(LANES)), builder.srem(size, long(LANES))
        some = builder.zext(builder.icmp_signed(">", left, long(0)), LONG)
        tail = Emitter(builder, left)
        pixel_step = builder.mul(size, long(BYTES))

        def offset(base: ir.Value, step: ir.Value, stride: ir.Value) -> ir.Value:
            return builder.add(base, builder.mul(step, stride))

        def vector(at: Emitter, window: ir.Value, step: ir.Value) -> list[ir.Value]:
            corner = offset(offset(x, window, window_step), step, long(BYTES_OF_VECTOR))

            def look(place: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                best, tap_of_best, tap = carried
                at.prefetch(builder.add(place, ahead))
                away = builder.fsub(at.load(place), mean)
                value = at.at_least(at.multiply_add(away, scale, shift), least)
                larger = _larger(at, value, best)
                return [
                    builder.select(larger, value, best),
                    builder.select(larger, tap, tap_of_best),
                    builder.add(tap, ONES),
                ]

            def look_along(row: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                start = offset(corner, row, row_step)
                return at.loop(width, carried, lambda j, c: look(offset(start, j, pixel_step), c))

            best, tap_of_best, _ = at.loop(height, [LOWEST, FIRST, FIRST], look_along)
            pixel = builder.add(builder.mul(window, size), builder.mul(step, long(LANES)))
            at.store(best, offset(y, pixel, long(BYTES)))
            _store_bytes(at, tap_of_best, builder.add(taps, pixel))
            return []

        def window(number: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            whole.loop(full, [], lambda step, _: vector(whole, number, step))
            return whole.loop(some, [], lambda _, __: vector(tail, number, full))

        whole.loop(windows, [], window)
        return context.get_dummy_value()

    return signature, codegen
