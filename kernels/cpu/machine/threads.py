"""How many threads the kernels of this folder run on: as many as torch."""

from __future__ import annotations

import threading

import numba
import torch
from gemkern.kernels.cpu.machine.compiling import announce_compiling, forget_old_kernels


class _Started(threading.local):
    """Torch's number of threads when this thread last set Numba's, and what that became."""

    wanted = threads = 0


_started = _Started()


def start_threads() -> int:
    """Let Numba run on torch's number of threads and return it; every kernel begins with this."""
    wanted = torch.get_num_threads()
    if wanted != _started.wanted:
        _started.threads = _set_threads(wanted)
        _started.wanted = wanted
    return _started.threads


def _set_threads(wanted: int) -> int:
    announce_compiling()
    forget_old_kernels()
    threads = min(wanted, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(threads)
    # Where both use one OpenMP library, Numba's first start sets torch's number to that of cores.
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return threads
