"""Integer keys of floats: as ordered as the values, one key for equal values.

-0.0 has the key of 0.0; every NaN has the largest key, after that of +inf. Only bits are looked at,
so that denormal numbers count as what they are, and bfloat16 needs no arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Keys are told apart 8 bits at a time: Triton 3.6 counts slowly in more than 256 bins.
BINS = tl.constexpr(256)


@triton.jit
def marks(DTYPE: tl.constexpr):
    """Return what the bits of a float dtype are told apart by: its sign bit, and infinity.

    Both have the dtype of its keys, uint64 for float64, else uint32.
    """
    WIDTH: tl.constexpr = DTYPE.primitive_bitwidth
    SIGN: tl.constexpr = 1 << (WIDTH - 1)
    INFINITY: tl.constexpr = SIGN - (1 << DTYPE.fp_mantissa_width)
    if WIDTH == 64:
        sign, infinity = tl.full((), SIGN, tl.uint64), tl.full((), INFINITY, tl.uint64)
    else:
        sign, infinity = tl.full((), SIGN, tl.uint32), tl.full((), INFINITY, tl.uint32)
    return sign, infinity


@triton.jit
def key_of(values, MAGNITUDE: tl.constexpr):
    """Return the keys of `values`, or with MAGNITUDE those of their absolute values."""
    WIDTH: tl.constexpr = values.dtype.primitive_bitwidth
    sign, infinity = marks(values.dtype)
    if WIDTH == 16:
        bits = values.to(tl.uint16, bitcast=True).to(tl.uint32)
    elif WIDTH == 32:
        bits = values.to(tl.uint32, bitcast=True)
    else:
        bits = values.to(tl.uint64, bitcast=True)
    magnitude = bits & (sign - 1)
    keys = magnitude + sign
    if not MAGNITUDE:
        keys = tl.where(bits > sign, sign - magnitude, keys)
    return tl.where(magnitude > infinity, sign + (sign - 1), keys)


@triton.jit
def value_of(key, DTYPE: tl.constexpr):
    """Return the value of a key: 0.0 for both zeros, one NaN for all."""
    WIDTH: tl.constexpr = DTYPE.primitive_bitwidth
    sign, _ = marks(DTYPE)
    bits = tl.where(key < sign, sign + (sign - key), key - sign)
    # The largest key gives a NaN, every bit set but the sign.
    if WIDTH == 16:
        bits = bits.to(tl.uint16)
    return bits.to(DTYPE, bitcast=True)


@triton.jit
def least_key(DTYPE: tl.constexpr):
    """Return the key of -inf."""
    sign, infinity = marks(DTYPE)
    return sign - infinity
