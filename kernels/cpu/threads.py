"""How many threads the kernels of this folder run on: as many as torch."""

from __future__ import annotations

import numba
import torch
from gemkern.kernels.cpu.compiling import announce_compiling


def start_threads() -> int:
    """Let Numba run on torch's number of threads and return it; every kernel begins with this."""
    announce_compiling()
    wanted = torch.get_num_threads()
    threads = min(wanted, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(threads)
    # Where both use one OpenMP library, Numba's first start sets torch's number to that of cores.
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return threads
