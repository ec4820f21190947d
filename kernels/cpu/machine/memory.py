"""Arrays of Numba on the memory of tensors.

Kernels are given addresses: that costs a tenth of an argument that is an array, and a list of them
is a tensor of integers. No kernel owns or keeps what it works on.
"""

from __future__ import annotations

from gemkern.kernels.cpu.machine.compiling import njit
from numba import carray, types
from numba.extending import intrinsic


@njit(cache=True)
def floats(address, size):
    """Return float32 [size] at `address`."""
    return carray(_float32_pointer(address), size)


@njit(cache=True)
def rows(address, count, size):
    """Return float32 [count, size] at `address`."""
    return carray(_float32_pointer(address), (count, size))


@njit(cache=True)
def flags(address, size):
    """Return uint8 [size] at `address`: bools are bytes."""
    return carray(_uint8_pointer(address), size)


@njit(cache=True)
def flag_rows(address, count, size):
    """Return uint8 [count, size] at `address`."""
    return carray(_uint8_pointer(address), (count, size))


@njit(cache=True)
def integers(address, size):
    """Return int64 [size] at `address`."""
    return carray(_int64_pointer(address), size)


@njit(cache=True)
def doubles(address, size):
    """Return float64 [size] at `address`."""
    return carray(_float64_pointer(address), size)


@njit(cache=True)
def number(address):
    """Return the float64 at `address`."""
    return carray(_float64_pointer(address), 1)[0]


def _pointer_to(element):
    @intrinsic
    def pointer(context, address):
        signature = types.CPointer(element)(types.int64)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


_float32_pointer = _pointer_to(types.float32)
_uint8_pointer = _pointer_to(types.uint8)
_int64_pointer = _pointer_to(types.int64)
_float64_pointer = _pointer_to(types.float64)
