"""A word on the first call, which may compile for some seconds; the disk keeps the code."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger(__name__)


@cache
def announce(kernels: str) -> None:
    """Log once in a process that these kernels are made ready."""
    logger.info("Numba makes the %s kernels ready; the first time takes some seconds.", kernels)
