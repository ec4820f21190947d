"""The batch in chunks: as many vectors of images as the inner loops take at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from gemkern.kernels.cpu.vectors import LANES

# Vectors in a chunk of each kind; the fifth kind is one vector that is masked, and the sixth is the
# first again, but what it writes goes past the caches.
VECTORS = (8, 4, 2, 1, 1, 8)
MASKED, STREAMED = 4, 5


@lru_cache(maxsize=1024)
def image_chunks(batch: int) -> np.ndarray:
    """Return int64 [chunks, 3]: the kind, the first image, and how many images if masked."""
    chunks, first = [], 0
    for kind, vectors in enumerate(VECTORS[:MASKED]):
        while batch - first >= vectors * LANES:
            chunks.append((kind, first, vectors * LANES))
            first += vectors * LANES
    if first < batch:
        chunks.append((MASKED, first, batch - first))
    return np.array(chunks, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=1024)
def streamed_chunks(batch: int) -> np.ndarray:
    """Return the same chunks, those of the first kind streamed."""
    chunks = image_chunks(batch).copy()
    chunks[chunks[:, 0] == 0, 0] = STREAMED
    return chunks
