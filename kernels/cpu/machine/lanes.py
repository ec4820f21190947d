"""What vectors and memory are made of on this machine: lanes, bytes, cache lines."""

from __future__ import annotations

from gemkern.kernels.cpu.machine.compiling import njit
from llvmlite import binding

# Of a float32, and of what the caches hold together.
BYTES = 4
LINE = 64


def _lanes() -> int:
    """Return how many float32 a vector register of this machine holds."""
    features = binding.get_host_cpu_features()
    wide = {"avx512f": 16, "avx2": 8}
    return next((lanes for name, lanes in wide.items() if features.get(name)), 4)


LANES = _lanes()
BYTES_OF_VECTOR = BYTES * LANES
# Bytes between what would otherwise lie in the same places of the caches.
APART = 5 * LINE
# Vectors of a patch, a part of a row that stays in registers while entries add to it, at most.
PATCH = 16 if LANES == 16 else 8
# A sum of products is kept in so many lanes: whole vectors of many entries would fill the cache.
LANES_OF_SUM = 4
BYTES_OF_SUM = BYTES * LANES_OF_SUM
# Of an entry, the lowest: which row of the kernel it belongs to. It can tell so many rows apart.
ROW_BITS = 8
KERNEL_ROWS = 2**ROW_BITS


@njit
def aligned(size):
    """Return the next multiple of a cache line, from a size or an address on."""
    return (size + LINE - 1) // LINE * LINE


@njit
def share_of(tasks, thread, threads):
    """Return the tasks that a thread does: from the first to behind the last."""
    return tasks * thread // threads, tasks * (thread + 1) // threads
