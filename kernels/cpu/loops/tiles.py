"""A tile of a matrix turned over in registers: its rows become columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemkern.kernels.cpu.loops.vectors import INT, ZEROS, Emitter, long
from gemkern.kernels.cpu.machine.lanes import LANES
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Vectors = list[ir.Value]
Store = Callable[[Emitter, ir.Value, ir.Value], None]


def _turned(builder: ir.IRBuilder, rows: Vectors) -> Vectors:
    """Return the columns of a square of LANES rows: halves change places, then halves of these."""
    rows, half = list(rows), LANES // 2
    lanes = range(LANES)
    while half:
        upper_lanes = [lane if not lane & half else LANES + lane - half for lane in lanes]
        lower_lanes = [lane + half if not lane & half else LANES + lane for lane in lanes]
        for i in (row for row in lanes if not row & half):
            pair = rows[i], rows[i + half]
            for place, order in ((i, upper_lanes), (i + half, lower_lanes)):
                chosen = ir.Constant(ir.VectorType(INT, LANES), order)
                rows[place] = builder.shuffle_vector(*pair, chosen)
        half //= 2
    return rows


def _turner(store: Store, whole: bool) -> Any:
    """Return the function that writes the transpose of a tile.

    turn(source, source_step, rows, columns, target, target_step): the tile [rows, columns], of at
    most LANES each, is read at `source` and written at `target`, in rows so many bytes apart.

    Args:
        store: store(at, vector, address) writes a row of a full tile.
        whole: whether every row that is written is a whole vector, 0 where nothing was read.
    """

    def emit(builder, source, source_step, rows, columns, target, target_step):
        def address(start: ir.Value, step: ir.Value, number: ir.Value) -> ir.Value:
            return builder.add(start, builder.mul(step, number))

        full_rows, full_columns = (
            builder.icmp_signed("==", count, long(LANES)) for count in (rows, columns)
        )
        with builder.if_else(builder.and_(full_rows, full_columns)) as (full, part):
            with full:
                at = Emitter(builder)
                read = [at.load(address(source, source_step, long(i))) for i in range(LANES)]
                for j, made in enumerate(_turned(builder, read)):
                    store(at, made, address(target, target_step, long(j)))
            with part:
                reads, writes = Emitter(builder, columns), Emitter(builder, rows)
                last, read = builder.sub(rows, long(1)), []
                for i in range(LANES):
                    inside = builder.icmp_signed("<", long(i), rows)
                    row = address(source, source_step, builder.select(inside, long(i), last))
                    read.append(builder.select(inside, reads.load(row), ZEROS))
                at = Emitter(builder) if whole else writes
                for j, made in enumerate(_turned(builder, read)):
                    with builder.if_then(builder.icmp_signed("<", long(j), columns)):
                        at.store(made, address(target, target_step, long(j)))

    @intrinsic
    def turn(typingctx, source, source_step, rows, columns, target, target_step):
        def codegen(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 6), codegen

    return turn


def _store(at: Emitter, vector: ir.Value, address: ir.Value) -> None:
    at.store(vector, address)


def _stream(at: Emitter, vector: ir.Value, address: ir.Value) -> None:
    at.stream(vector, address)


turn_tile, turn_tile_past_caches = _turner(_store, False), _turner(_stream, False)
turn_tile_padded = _turner(_store, True)
