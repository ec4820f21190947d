"""Mean and variance of parts, merged.

Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.memory import floats


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


@njit
def combine(parts, mean, var):
    """Write mean and (biased) variance of each channel, float32, to addresses.

    Args:
        parts: float64 [parts, channels, 4], of each part size, pivot, and the sums of value - pivot
            and of its square.
    """
    channels = parts.shape[1]
    means, variances = floats(mean, channels), floats(var, channels)
    for channel in range(channels):
        count, centre, spread = 0.0, 0.0, 0.0
        for part in range(len(parts)):
            size, pivot, once, twice = parts[part, channel]
            if size:
                count, centre, spread = merged(count, centre, spread, size, pivot, once, twice)
        means[channel] = centre
        # Not max(): a NaN has to stay one.
        variances[channel] = 0.0 if spread < 0 else spread / count
