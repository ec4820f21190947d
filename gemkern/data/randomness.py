"""Random numbers that depend on nothing but the numbers they are asked with."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number


class Stream(IntEnum):
    """What random numbers are for: each purpose draws its own, whatever the seed."""

    SPLIT = 1
    EPOCH = 2
    DIGITS_TEST_SET = 3


def random_numbers(stream: Stream, seed: int, epoch: int = 0) -> np.random.Generator:
    """Return a fresh generator for `stream`; no global generator is read or advanced.

    Raises:
        GemkernError: a seed or an epoch that is negative, or no whole number.
    """
    seed, epoch = whole_number("the seed", seed), whole_number("the epoch", epoch)
    if seed < 0 or epoch < 0:
        raise GemkernError(f"seed {seed} and epoch {epoch}: neither may be negative")
    return np.random.default_rng([stream, seed, epoch])
