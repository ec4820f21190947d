"""Which results go past the caches."""

from __future__ import annotations

from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_VECTOR
from torch import Tensor

# Bytes from which a result has left the caches before it is read. Smaller ones are read sooner by
# the next operator than memory could give them back.
STREAMED_FROM = 7 * 2**20


def streams(images: Tensor) -> bool:
    """Return whether to write batch-last images past the caches: every vector must be aligned."""
    if images.numel() * BYTES < STREAMED_FROM:
        return False
    aligned = images.data_ptr() % BYTES_OF_VECTOR == 0
    return aligned and images.shape[0] * BYTES % BYTES_OF_VECTOR == 0
