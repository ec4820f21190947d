"""select_kth and remove_lowest in Numba: those of the reference; other dtypes are left to it."""

from __future__ import annotations

import pytest
from gemkern.kernels.cpu import select_kth
from suites.select_kth import SelectKth


@pytest.mark.usefixtures("guards", "threads")
class TestSelectKth(SelectKth):
    backend = select_kth
