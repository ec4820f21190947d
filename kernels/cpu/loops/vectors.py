"""Vector instructions that Numba does not offer: the inner loops of the sparse kernels.

Numba vectorises plain loops but keeps no vector in a register from one loop to the next. The inner
loops here are written in LLVM's language instead, of vectors of LANES float32.

Addresses are int64. A pixel is `vectors` vectors of images. An entry of a list is an int64: eight
bits of the kernel's row, and above them how many pixels it reads lie from the start of that row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemkern.kernels.cpu.machine.lanes import (
    BYTES,
    BYTES_OF_VECTOR,
    KERNEL_ROWS,
    LANES,
    LANES_OF_SUM,
    ROW_BITS,
)
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)
SUM = ir.VectorType(FLOAT, LANES_OF_SUM)
Vectors = list[ir.Value]


def long(number: int) -> ir.Constant:
    """Return an int64 constant."""
    return ir.Constant(LONG, number)


class Emitter:
    """Writes vector instructions at the builder's place, of vectors of so many lanes.

    With a `rest`, memory is read and written for as many lanes alone; others are read as 0.
    """

    def __init__(
        self, builder: ir.IRBuilder, rest: ir.Value | None = None, lanes: int = LANES
    ) -> None:
        self.builder = builder
        self.vector = ir.VectorType(FLOAT, lanes)
        self.zeros = ir.Constant(self.vector, [0.0] * lanes)
        self.mask = None if rest is None else self._mask_of(rest)

    def _mask_of(self, rest: ir.Value) -> ir.Value:
        numbers = ir.Constant(ir.VectorType(LONG, LANES), list(range(LANES)))
        return self.builder.icmp_signed("<", numbers, self._spread(rest, numbers.type))

    def _spread(self, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(INT, 0))
        everywhere = ir.Constant(ir.VectorType(INT, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def spread(self, scalar: ir.Value) -> ir.Value:
        """Return a vector of a float alone."""
        return self._spread(scalar, self.vector)

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
        pointer = self.pointer(address, self.vector)
        if self.mask is None:
            return self.builder.load(pointer, align=BYTES)
        align = ir.Constant(INT, BYTES)
        name = f"llvm.masked.load.v{LANES}f32.p0"
        return self.call(name, VECTOR, [pointer, align, self.mask, ZEROS])

    def store(self, vector: ir.Value, address: ir.Value) -> None:
        pointer = self.pointer(address, self.vector)
        if self.mask is None:
            self.builder.store(vector, pointer, align=BYTES)
            return
        align = ir.Constant(INT, BYTES)
        name = f"llvm.masked.store.v{LANES}f32.p0"
        self.call(name, ir.VoidType(), [vector, pointer, align, self.mask])

    def stream(self, vector: ir.Value, address: ir.Value) -> None:
        """Store past the caches, to where a vector is aligned, if all lanes count."""
        if self.mask is not None:
            self.store(vector, address)
            return
        pointer = self.pointer(address, VECTOR)
        stored = self.builder.store(vector, pointer, align=BYTES_OF_VECTOR)
        hint = self.builder.module.add_metadata([ir.Constant(INT, 1)])
        stored.set_metadata("nontemporal", hint)

    def only(self, vector: ir.Value) -> ir.Value:
        """Return the vector with 0 in the lanes that do not count."""
        return vector if self.mask is None else self.builder.select(self.mask, vector, ZEROS)

    def prefetch(self, address: ir.Value) -> None:
        """Let the line at an address come into the second-level cache; any address may be given."""
        pointer = self.pointer(address, ir.IntType(8))
        read, near, data = (ir.Constant(INT, number) for number in (0, 2, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), [pointer, read, near, data])

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a * b + c, fused where the machine can."""
        return self.call(f"llvm.fmuladd.v{a.type.count}f32", a.type, [a, b, c])

    def add_to_sum(self, totals: Sequence[ir.Value], address: ir.Value) -> None:
        """Add vectors, folded to as many lanes, to the sum at an address."""
        total, *others = totals
        for other in others:
            total = self.builder.fadd(total, other)
        while total.type.count > LANES_OF_SUM:
            halves = total.type.count // 2
            low, high = (self._lanes(total, start, halves) for start in (0, halves))
            total = self.builder.fadd(low, high)
        pointer = self.pointer(address, SUM)
        before = self.builder.load(pointer, align=BYTES)
        self.builder.store(self.builder.fadd(before, total), pointer, align=BYTES)

    def _lanes(self, vector: ir.Value, start: int, count: int) -> ir.Value:
        order = ir.Constant(ir.VectorType(INT, count), list(range(start, start + count)))
        return self.builder.shuffle_vector(vector, vector, order)

    def at_least(self, value: ir.Value, least: ir.Value) -> ir.Value:
        """Return `least` where value < least, else the value: a NaN stays one."""
        less = self.builder.fcmp_ordered("<", value, least)
        return self.builder.select(less, least, value)

    def total(self, vector: ir.Value) -> ir.Value:
        """Return the sum of the lanes, added in pairs."""
        lanes = vector.type.count
        while lanes > 1:
            lanes //= 2
            low, high = (self._lanes(vector, start, lanes) for start in (0, lanes))
            vector = self.builder.fadd(low, high)
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
        step.add_incoming(long(0), before)
        phis = []
        for value in carried:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed("<", step, count), inside, after)
        builder.position_at_end(inside)
        results = body(step, list(phis))
        step.add_incoming(builder.add(step, long(1)), builder.block)
        for phi, result in zip(phis, results, strict=True):
            phi.add_incoming(result, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return list(phis)


def from_row(at: Emitter, rows: ir.Value, entry: ir.Value, pixel: ir.Value) -> ir.Value:
    """Return the address that an entry reads: its row's, and on as many pixels of so many bytes."""
    builder = at.builder
    row = builder.and_(entry, long(KERNEL_ROWS - 1))
    start = at.scalar(builder.add(rows, builder.mul(row, long(8))), LONG)
    pixels = builder.ashr(entry, long(ROW_BITS))
    return builder.add(start, builder.mul(pixels, pixel))


def from_start(at: Emitter, start: ir.Value, entry: ir.Value, pixel: ir.Value) -> ir.Value:
    """Return the address that an entry reads which is a number of bytes from a start."""
    return at.builder.add(start, entry)


@intrinsic
def wait_for_stores(typingctx):
    """Let other threads see what this one has stored past the caches."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def sum_of_lanes(typingctx, address):
    """Return the total of the sum at an address."""

    def codegen(context, builder, signature, arguments):
        at = Emitter(builder)
        pointer = at.pointer(arguments[0], SUM)
        return at.total(builder.load(pointer, align=BYTES))

    return types.float32(types.int64), codegen
