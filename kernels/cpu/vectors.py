"""Vector instructions that Numba does not offer: the inner loops of the sparse kernels.

Numba vectorises plain loops but keeps no vector in a register from one loop to the next. The inner
loops here are written in LLVM's language instead: their sums are vectors of LANES float32 that
never leave the registers while the non-zeros of a row go by.

Addresses are int64. Images are the innermost dimension, and `rest` images (below LANES) of a
masked vector count; a vector that is not masked takes LANES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

BYTES_OF_FLOAT = 4


def _lanes() -> int:
    """Return how many float32 a vector register of this machine holds."""
    features = binding.get_host_cpu_features()
    wide = {"avx512f": 16, "avx2": 8}
    return next((lanes for name, lanes in wide.items() if features.get(name)), 4)


LANES = _lanes()
BYTES_OF_VECTOR = BYTES_OF_FLOAT * LANES

INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


def _long(number: int) -> ir.Constant:
    return ir.Constant(LONG, number)


class Emitter:
    """Writes vector instructions at the builder's place; `rest` (or None) masks memory access."""

    def __init__(self, builder: ir.IRBuilder, rest: ir.Value | None = None) -> None:
        self.builder = builder
        self.mask = None if rest is None else self._mask_of(rest)

    def _mask_of(self, rest: ir.Value) -> ir.Value:
        numbers = ir.Constant(ir.VectorType(LONG, LANES), list(range(LANES)))
        return self.builder.icmp_signed("<", numbers, self._spread(rest, numbers.type))

    def _spread(self, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(INT, 0))
        everywhere = ir.Constant(ir.VectorType(INT, LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def spread(self, scalar: ir.Value) -> ir.Value:
        """Return a vector of LANES times a float."""
        return self._spread(scalar, VECTOR)

    def call(self, name: str, result: ir.Type, operands: Sequence[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, operands)

    def pointer(self, address: ir.Value, pointee: ir.Type) -> ir.Value:
        return self.builder.inttoptr(address, pointee.as_pointer())

    def scalar(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.load(self.pointer(address, kind))

    def load(self, address: ir.Value) -> ir.Value:
        pointer = self.pointer(address, VECTOR)
        if self.mask is None:
            return self.builder.load(pointer, align=BYTES_OF_FLOAT)
        align = ir.Constant(INT, BYTES_OF_FLOAT)
        name = f"llvm.masked.load.v{LANES}f32.p0"
        return self.call(name, VECTOR, [pointer, align, self.mask, ZEROS])

    def store(self, vector: ir.Value, address: ir.Value) -> None:
        pointer = self.pointer(address, VECTOR)
        if self.mask is None:
            self.builder.store(vector, pointer, align=BYTES_OF_FLOAT)
            return
        align = ir.Constant(INT, BYTES_OF_FLOAT)
        name = f"llvm.masked.store.v{LANES}f32.p0"
        self.call(name, ir.VoidType(), [vector, pointer, align, self.mask])

    def stream(self, vector: ir.Value, address: ir.Value) -> None:
        """Store a whole vector, at a multiple of its size, past the caches."""
        pointer = self.pointer(address, VECTOR)
        stored = self.builder.store(vector, pointer, align=BYTES_OF_VECTOR)
        hint = self.builder.module.add_metadata([ir.Constant(INT, 1)])
        stored.set_metadata("nontemporal", hint)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a * b + c, fused where the machine can."""
        return self.call(f"llvm.fmuladd.v{LANES}f32", VECTOR, [a, b, c])

    def total(self, vector: ir.Value) -> ir.Value:
        """Return the sum of the lanes, added in pairs."""
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            order = [(lane + lanes) % LANES for lane in range(LANES)]
            turned = self.builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(INT, LANES), order)
            )
            vector = self.builder.fadd(vector, turned)
        return self.builder.extract_element(vector, ir.Constant(INT, 0))

    def loop(
        self,
        count: ir.Value,
        carried: list[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """Run body(step, carried) for step = 0 ... count - 1 and return what it carries."""
        builder = self.builder
        before = builder.block
        head = builder.append_basic_block("loop.head")
        inside = builder.append_basic_block("loop.body")
        after = builder.append_basic_block("loop.after")
        builder.branch(head)
        builder.position_at_end(head)
        step = builder.phi(LONG)
        step.add_incoming(_long(0), before)
        phis = []
        for value in carried:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed("<", step, count), inside, after)
        builder.position_at_end(inside)
        results = body(step, list(phis))
        step.add_incoming(builder.add(step, _long(1)), builder.block)
        for phi, result in zip(phis, results, strict=True):
            phi.add_incoming(result, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return list(phis)

    def choose(
        self,
        condition: ir.Value,
        yes: Callable[[], list[ir.Value]],
        no: Callable[[], list[ir.Value]],
    ) -> list[ir.Value]:
        """Return the vectors of `yes` or of `no`; only the one that is chosen runs."""
        builder = self.builder
        taken, other = builder.append_basic_block("yes"), builder.append_basic_block("no")
        after = builder.append_basic_block("chosen")
        builder.cbranch(condition, taken, other)
        phis: list[ir.PhiInstr] = []
        outcomes = []
        for block, make in ((taken, yes), (other, no)):
            builder.position_at_end(block)
            outcomes.append((make(), builder.block))
            builder.branch(after)
        builder.position_at_end(after)
        for position, value in enumerate(outcomes[0][0]):
            phi = builder.phi(value.type)
            for values, block in outcomes:
                phi.add_incoming(values[position], block)
            phis.append(phi)
        return list(phis)


def accumulator(pixels: int, vectors: int, masked: bool = False, streamed: bool = False) -> Any:
    """Return the loop of the forward pass and the input gradient: one channel of a few pixels.

    accumulate(target, target_step, source, source_step, offsets, values, count, start, resume,
    rest) adds, for each of `count` entries, values[k] times the images at source + offsets[k] to
    the images at `target`, in `pixels` pixels that lie `target_step` and `source_step` bytes apart
    and `vectors` vectors in each. The sums begin with `start`, or with what the target holds if
    `resume`. They are stored past the caches if `streamed`.
    """

    def emit(builder, target, target_step, source, source_step, offsets, values, count, start,
             resume, rest):  # fmt: skip
        at = Emitter(builder, rest if masked else None)

        def places(base: ir.Value, step: ir.Value) -> list[ir.Value]:
            return [
                builder.add(
                    builder.add(base, builder.mul(step, _long(pixel))),
                    _long(vector * BYTES_OF_VECTOR),
                )
                for pixel in range(pixels)
                for vector in range(vectors)
            ]

        written = places(target, target_step)
        sums = at.choose(
            builder.icmp_signed("!=", resume, _long(0)),
            lambda: [at.load(place) for place in written],
            lambda: [at.spread(start)] * len(written),
        )

        def add_entry(step: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            offset = at.scalar(builder.add(offsets, builder.mul(step, _long(8))), LONG)
            value = at.scalar(builder.add(values, builder.mul(step, _long(BYTES_OF_FLOAT))), FLOAT)
            factor = at.spread(value)
            read = places(builder.add(source, offset), source_step)
            return [
                at.multiply_add(at.load(place), factor, total)
                for place, total in zip(read, sums, strict=True)
            ]

        store = at.stream if streamed else at.store
        for place, total in zip(written, at.loop(count, sums, add_entry), strict=True):
            store(total, place)

    kinds = (types.int64,) * 7 + (types.float32, types.int64, types.int64)

    @intrinsic
    def accumulate(typingctx, target, target_step, source, source_step, offsets, values, count,
                   start, resume, rest):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*kinds), codegen

    return accumulate


def dot_products(entries: int, vectors: int, masked: bool = False) -> Any:
    """Return the loop of the weight gradient: a few entries of one output channel.

    add_products(grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest) adds,
    for each of `entries` entries, the product of `vectors` vectors at `grad` and at
    source + offsets[k], over `pixels` pixels that lie `grad_step` and `source_step` bytes apart,
    to the vector number labels[k] at `sums`.
    """
    # Few entries would wait for each other's sums: each then has several, added at the end.
    partial = max(1, min(vectors, 8 // entries))

    def emit(builder, grad, grad_step, source, source_step, offsets, labels, sums, pixels, rest):
        at = Emitter(builder, rest if masked else None)
        whole = Emitter(builder)
        bases, places = [], []
        for entry in range(entries):
            offset = at.scalar(builder.add(offsets, _long(8 * entry)), LONG)
            label = at.scalar(builder.add(labels, _long(4 * entry)), INT)
            shift = builder.mul(builder.sext(label, LONG), _long(BYTES_OF_VECTOR))
            bases.append(builder.add(source, offset))
            places.append(builder.add(sums, shift))
        begun = [
            whole.load(place) if part == 0 else ZEROS for place in places for part in range(partial)
        ]

        def add_pixel(step: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            grads = builder.add(grad, builder.mul(step, grad_step))
            shift = builder.mul(step, source_step)
            for vector in range(vectors):
                inside = _long(vector * BYTES_OF_VECTOR)
                grad_vector = at.load(builder.add(grads, inside))
                for entry, base in enumerate(bases):
                    read = at.load(builder.add(builder.add(base, shift), inside))
                    number = entry * partial + vector % partial
                    totals[number] = at.multiply_add(read, grad_vector, totals[number])
            return totals

        totals = at.loop(pixels, begun, add_pixel)
        for entry, place in enumerate(places):
            total, *others = totals[entry * partial : (entry + 1) * partial]
            for other in others:
                total = builder.fadd(total, other)
            whole.store(total, place)

    @intrinsic
    def add_products(typingctx, grad, grad_step, source, source_step, offsets, labels, sums, pixels,
                     rest):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 9), codegen

    return add_products


@intrinsic
def sum_of_lanes(typingctx, address):
    """Return the sum of the vector at an address."""

    def codegen(context, builder, signature, arguments):
        at = Emitter(builder)
        return at.total(at.load(arguments[0]))

    return types.float32(types.int64), codegen


@intrinsic
def wait_for_stores(typingctx):
    """Let other threads see what this one has stored past the caches."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
