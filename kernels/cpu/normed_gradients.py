"""The inner loop of the backward pass behind a norm: all gradients of a pixel, in registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemkern.kernels.cpu.normed_vectors import PARTIAL
from gemkern.kernels.cpu.strip_gradients import SUMS
from gemkern.kernels.cpu.strips import VECTORS
from gemkern.kernels.cpu.vectors import (
    BYTES_OF_SUM,
    ZEROS,
    Emitter,
    add_times_value,
    long,
    read_entry,
)
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Vectors = list[ir.Value]
# How many numbers the tuples hold that the loop takes: tensors, steps, numbers and lists.
COUNTS = (6, 3, 4, 8)


def _either(builder: ir.IRBuilder, wanted: ir.Value, yes: Callable[[], Vectors],
            no: Callable[[], Vectors]) -> Vectors:  # fmt: skip
    """Return yes() where `wanted` is not 0, else no()."""
    made = []
    with builder.if_else(builder.icmp_signed("!=", wanted, long(0))) as branches:
        for branch, make in zip(branches, (yes, no), strict=True):
            with branch:
                made.append((make(), builder.block))
    merged = []
    for number, vector in enumerate(made[0][0]):
        phi = builder.phi(vector.type)
        for vectors, block in made:
            phi.add_incoming(vectors[number], block)
        merged.append(phi)
    return merged


def _leading(pixels: int, vectors: int) -> Any:
    """Return the loop that leads the gradient of a few pixels of a channel back through its norm.

    lead(tensors, steps, numbers, lists, sums, streamed, ahead):

    Args:
        tensors: addresses of x, z, grad_z, grad_skip, grad_x and grad_residual at the first pixel.
            Without z (0) it is made of x again; grad_residual may be 0; what else is not there is
            a pixel of zeros.
        steps: bytes from pixel to pixel of x, z, grad_x and grad_residual; of grad_z; of grad_skip.
        numbers: mean, scale, shift and least of the norm.
        lists: as in `gradients`: rows, shift, source_step, listed, values, count; then how many
            entries there are with those whose value is 0, and where the sums of all begin.
        sums: address of the sums of the gradient behind the ReLU, and of its product with x - mean.
        streamed: whether what is written goes past the caches.
        ahead: bytes to the x that is read later, which is fetched.
    """

    def emit(builder, tensors, steps, numbers, lists, found, streamed, ahead):
        at = Emitter(builder)
        x, z, grad_z, grad_skip, grad_x, grad_residual = tensors
        far, of_z, of_skip = steps
        mean, scale, shift_of, least = (at.spread(number) for number in numbers)
        rows, shift, source_step, listed, values, count, every, sums = lists

        def places(base: ir.Value, step: ir.Value) -> Vectors:
            return at.places(base, step, pixels, vectors)

        def normed() -> Vectors:
            made = []
            for place in places(x, far):
                away = builder.fsub(at.load(place), mean)
                made.append(at.at_least(at.multiply_add(away, scale, shift_of), least))
            return made

        def kept() -> Vectors:
            return [at.load(place) for place in places(z, far)]

        for place in places(x, far):
            at.prefetch(builder.add(place, ahead))
        inputs = _either(builder, z, kept, normed)

        read_from = (rows, shift, source_step, listed, sums)

        def add_entry(step: ir.Value, totals: Vectors) -> Vectors:
            read = read_entry(at, read_from, step, inputs, pixels)
            return add_times_value(at, values, step, read, totals)

        def multiply_entry(step: ir.Value, totals: Vectors) -> Vectors:
            read_entry(at, read_from, builder.add(step, count), inputs, pixels)
            return totals

        gradients = at.loop(count, [ZEROS] * (pixels * vectors), add_entry)
        at.loop(builder.sub(every, count), [], multiply_entry)
        once, twice, scaled = [ZEROS] * PARTIAL, [ZEROS] * PARTIAL, []
        others = (places(x, far), places(grad_z, of_z), places(grad_skip, of_skip))
        for number, (of_x, more, skip) in enumerate(zip(*others, strict=True)):
            gradient = builder.fadd(gradients[number], at.load(more))
            closed = builder.fcmp_ordered("<=", inputs[number], least)
            gradient = gradients[number] = builder.select(closed, ZEROS, gradient)
            away, part = builder.fsub(at.load(of_x), mean), number % PARTIAL
            once[part] = builder.fadd(once[part], gradient)
            twice[part] = at.multiply_add(gradient, away, twice[part])
            scaled.append(builder.fadd(builder.fmul(gradient, scale), at.load(skip)))
        at.add_to_sum(once, found)
        at.add_to_sum(twice, builder.add(found, long(BYTES_OF_SUM)))

        def write(made: Vectors, target: ir.Value) -> None:
            def through(store: Callable[[ir.Value, ir.Value], None]) -> Callable[[], Vectors]:
                def stored() -> Vectors:
                    for vector, place in zip(made, places(target, far), strict=True):
                        store(vector, place)
                    return []

                return stored

            _either(builder, streamed, through(at.stream), through(at.store))

        write(scaled, grad_x)
        with builder.if_then(builder.icmp_signed("!=", grad_residual, long(0))):
            write(gradients, grad_residual)

    @intrinsic
    def lead(typingctx, tensors, steps, numbers, lists, found, streamed, ahead):
        whole = types.int64
        kinds = (whole, whole, types.float32, whole)
        operands = [types.UniTuple(kind, n) for kind, n in zip(kinds, COUNTS, strict=True)]

        def codegen(context, builder, signature, arguments):
            unpacked = [
                [builder.extract_value(argument, place) for place in range(n)]
                for argument, n in zip(arguments[:4], COUNTS, strict=True)
            ]
            emit(builder, *unpacked, *arguments[4:])
            return context.get_dummy_value()

        return types.void(*operands, whole, whole, whole), codegen

    return lead


def _runner(vectors):
    """Return the function that does so for a run of pixels, some at once and then the others."""
    at_once = max(1, SUMS // vectors)
    some, one = _leading(at_once, vectors), _leading(1, vectors)

    @njit
    def run(tensors, steps, numbers, lists, sums, streamed, ahead, pixels):
        while pixels >= at_once:
            some(tensors, steps, numbers, lists, sums, streamed, ahead)
            tensors, lists = moved(tensors, steps, lists, at_once)
            pixels -= at_once
        for _ in range(pixels):
            one(tensors, steps, numbers, lists, sums, streamed, ahead)
            tensors, lists = moved(tensors, steps, lists, 1)

    return run


@njit
def moved(tensors, steps, lists, pixels):
    """Return tensors and lists some pixels on."""
    x, z, grad_z, grad_skip, grad_x, grad_residual = tensors
    far = pixels * steps[0]
    rows, shift, source_step, listed, values, count, every, sums = lists
    return (
        x + far,
        z + far if z else 0,
        grad_z + pixels * steps[1],
        grad_skip + pixels * steps[2],
        grad_x + far,
        grad_residual + far if grad_residual else 0,
    ), (rows, shift + pixels * source_step, source_step, listed, values, count, every, sums)


run_eight, run_four, run_two, run_one = (_runner(vectors) for vectors in VECTORS)


@njit
def lead_through_norm(kind, tensors, steps, numbers, lists, sums, streamed, ahead, pixels):
    """Lead the gradient of a run of pixels of a chunk of this kind back."""
    if kind == 0:
        run_eight(tensors, steps, numbers, lists, sums, streamed, ahead, pixels)
    elif kind == 1:
        run_four(tensors, steps, numbers, lists, sums, streamed, ahead, pixels)
    elif kind == 2:
        run_two(tensors, steps, numbers, lists, sums, streamed, ahead, pixels)
    else:
        run_one(tensors, steps, numbers, lists, sums, streamed, ahead, pixels)
