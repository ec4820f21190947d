"""What a list of entries reads, and what it multiplies by, in LLVM's language."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gemkern.kernels.cpu.loops.vectors import FLOAT, LONG, Emitter, Vectors, long
from gemkern.kernels.cpu.machine.lanes import BYTES
from llvmlite import ir


class Reads(NamedTuple):
    """Where a list of entries reads, as operands of a loop.

    An entry says where in rows of pixels of `pixel` bytes, which begin at the addresses `rows`, or
    in bytes from `rows` on, as `source_of` understands it.
    """

    source_of: Callable[..., ir.Value]
    rows: ir.Value
    pixel: ir.Value
    entries: ir.Value

    def bases(self, at: Emitter, first: ir.Value, many: int) -> Vectors:
        """Return where `many` entries read, from the `first` one on."""
        builder = at.builder
        listed = builder.add(self.entries, builder.mul(first, long(8)))
        found = []
        for number in range(many):
            entry = at.scalar(builder.add(listed, long(8 * number)), LONG)
            found.append(self.source_of(at, self.rows, entry, self.pixel))
        return found


def values_of(at: Emitter, values: ir.Value, first: ir.Value, many: int) -> Vectors:
    """Return the values of `many` entries, each in all lanes."""
    builder = at.builder
    start = builder.add(values, builder.mul(first, long(BYTES)))
    places = (builder.add(start, long(number * BYTES)) for number in range(many))
    return [at.spread(at.scalar(place, FLOAT)) for place in places]
