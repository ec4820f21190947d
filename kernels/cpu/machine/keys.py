"""Integer keys of float32: as ordered as the values, one key for equal values.

-0.0 has the key of 0.0; every NaN has the largest key, after that of +inf. Only bits are looked at,
so that denormal numbers count as what they are.
"""

from __future__ import annotations

import numpy as np
from gemkern.kernels.cpu.machine.compiling import njit

SIGN = np.uint32(1 << 31)
INFINITY = np.uint32(0xFF << 23)
NAN_KEY = np.uint32(0xFFFFFFFF)
# The key of -inf.
LEAST_KEY = np.uint32(SIGN - INFINITY)


@njit(cache=True)
def key_of(bits):
    """Return the key of the float32 that has the uint32 `bits`."""
    magnitude = bits & np.uint32(SIGN - np.uint32(1))
    key = np.uint32(SIGN - magnitude) if bits > SIGN else np.uint32(SIGN + magnitude)
    return NAN_KEY if magnitude > INFINITY else key


@njit(cache=True)
def bits_of(key):
    """Return the bits of the value of a key: of 0.0 for both zeros, of one NaN for all."""
    return np.uint32(SIGN + (SIGN - key)) if key < SIGN else np.uint32(key - SIGN)
