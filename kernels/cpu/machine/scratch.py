"""Memory that kernels work in, kept from call to call: fresh pages cost more than the work."""

from __future__ import annotations

import threading

import numpy as np
from gemkern.kernels.cpu.machine.lanes import LINE


class _Kept(threading.local):
    memory = np.empty(0, np.uint8)
    start = 0


_kept = _Kept()


def scratch(size: int) -> int:
    """Return the address of `size` bytes, at the start of a cache line.

    They hold until this thread of Python asks again.
    """
    if len(_kept.memory) < size + LINE:
        _kept.memory = np.empty(size + LINE, np.uint8)
        address = _kept.memory.ctypes.data
        _kept.start = address + -address % LINE
    return _kept.start
