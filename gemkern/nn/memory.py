"""The memory of a process that trains."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, where it is glibc.

    Otherwise a step on the CPU gives the pages of its activations back to the system and asks for
    them again, which can take as long as all else. It holds for the whole process; `accelerate`
    does it.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    set_option = getattr(library, "mallopt", None)
    if set_option is not None:
        trim_threshold, mmap_max = -1, -4
        set_option(trim_threshold, 2**31 - 1)
        set_option(mmap_max, 0)
