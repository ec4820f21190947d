"""Mean and variance of parts, merged.

Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def merged(count, mean, spread, size, pivot, once, twice):
    """Return count, mean and sum of squared deviations with a part of `size` values added.

    `once` and `twice` are the part's sums of value - pivot and of its square; all is float64.
    """
    left = once / size
    count += size
    away = pivot + left - mean
    mean += away * (size / count)
    spread += twice - once * left + away * away * (size * (count - size) / count)
    return count, mean, spread
