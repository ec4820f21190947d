"""The floating-point environment of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible_numerics() -> Iterator[None]:
    """Run the body with denormal numbers flushed and cuDNN deterministic; put both back after.

    Scores, momentum and activations of collapsing layers decay into denormals, which cost a CPU
    three times the run or more. Flushing is a state of the calling thread, which the threads that
    it starts inherit: where several CPU threads are to give the same bits in every process, call
    torch.set_flush_denormal(True) before PyTorch's first parallel work, as `gemkern` does.
    """
    flushed_before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_flush_denormal(flushed_before)


def _flushes_denormals() -> bool:
    return bool(torch.tensor(1e-40) * 1.0 == 0.0)
