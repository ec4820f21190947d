"""Which engine runs a convolution: the one place that says so, for networks and for benchmarks."""

from __future__ import annotations

from gemkern.kernels.cpu.machine.lanes import KERNEL_ROWS, LANES
from gemkern.kernels.geometry import Walk

DIRECT, STRIPS, REFERENCE = "direct", "strips", "reference"


def engine_of(walk: Walk, alone: bool) -> str:
    """Return "direct", "strips" or "reference".

    `direct` reads tensors where they lie, and saves the copy; but it can do nothing on the way, and
    images must fill whole vectors. `strips` reads rows into a ring in the cache, normalises what it
    reads, measures what it writes, and takes any batch. Both make each gradient that is asked for.

    Args:
        alone: whether it is a layer by itself (`sparse_conv2d`). A convolution of an accelerated
            network (`norm_sparse_conv2d`) is not, with or without a norm: what it computes does
            not change where a norm, a residual or moments come or go.
    """
    if walk.kernel_height > KERNEL_ROWS:
        # An entry cannot tell so many rows apart.
        return REFERENCE
    return DIRECT if alone and walk.batch % LANES == 0 else STRIPS
