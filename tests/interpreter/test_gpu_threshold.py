"""threshold and effective_weight in Triton: bit for bit the reference."""

from __future__ import annotations

from gemkern.kernels.gpu import threshold
from suites.threshold import Threshold


class TestThreshold(Threshold):
    backend = threshold
