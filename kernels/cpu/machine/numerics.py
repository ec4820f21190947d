"""The floating-point control word of a thread: how it rounds, and whether denormals count.

The threads of Numba start with a word of their own. A kernel reads that of its caller and lets each
of them adopt it, so that torch.set_flush_denormal holds there too.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# The register is MXCSR; on other machines the word is read as 0, and left as it is.
X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")


@intrinsic
def float_control(context):
    """Return the control word of this thread, int32."""

    def generate(context, builder, signature, arguments):
        place = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(32), 0))
        if X86:
            _call(builder, "llvm.x86.sse.stmxcsr", place)
        return builder.load(place)

    return types.int32(), generate


@intrinsic
def adopt(context, control):
    """Give this thread a control word; return the one that it had, to be given back."""

    def generate(context, builder, signature, arguments):
        place = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(32), 0))
        if X86:
            _call(builder, "llvm.x86.sse.stmxcsr", place)
        before = builder.load(place)
        builder.store(arguments[0], place)
        if X86:
            _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return before

    return types.int32(types.int32), generate


def _call(builder: ir.IRBuilder, name: str, place: ir.Value) -> None:
    pointer = cgutils.voidptr_t
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer]), name
    )
    builder.call(function, [builder.bitcast(place, pointer)])
