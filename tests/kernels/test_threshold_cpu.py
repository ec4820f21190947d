"""threshold and effective_weight in Numba: bit for bit those of the reference."""

from __future__ import annotations

import pytest
from gemkern.kernels.cpu import threshold
from suites.threshold import Threshold


@pytest.mark.usefixtures("guards", "threads")
class TestThreshold(Threshold):
    backend = threshold
