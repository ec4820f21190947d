"""The floating-point control word of a thread: how it rounds, and whether denormals count.

The threads of Numba start with a word of their own. A kernel reads that of its caller and sets it
in each of them, so that torch.set_flush_denormal holds there too.
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
def set_float_control(context, control):
    """Give this thread the control word that `float_control` returned in another."""

    def generate(context, builder, signature, arguments):
        if X86:
            place = cgutils.alloca_once_value(builder, arguments[0])
            _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.int32), generate


def _call(builder: ir.IRBuilder, name: str, place: ir.Value) -> None:
    pointer = cgutils.voidptr_t
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer]), name
    )
    builder.call(function, [builder.bitcast(place, pointer)])
