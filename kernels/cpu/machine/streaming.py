"""Which results go past the caches."""

from __future__ import annotations

from gemkern.kernels.cpu.machine.lanes import BYTES, BYTES_OF_VECTOR
from torch import Tensor

# Bytes from which a result has left the caches before it is read. Smaller ones are read sooner by
# the next operator than memory could give them back.
STREAMED_FROM = 7 * 2**20


def streams(images: Tensor) -> bool:
    """Return whether to write batch-last images past the caches."""
    return streams_rows(images, images.shape[0])


def streams_rows(target: Tensor, numbers: int) -> bool:
    """Return whether to write rows of so many numbers past the caches: every vector is aligned."""
    if target.numel() * BYTES < STREAMED_FROM:
        return False
    aligned = target.data_ptr() % BYTES_OF_VECTOR == 0
    return aligned and numbers * BYTES % BYTES_OF_VECTOR == 0
