"""score_step in Numba: bit for bit that of the reference, over many steps, in place."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.cpu import score_step
from suites.score_step import ScoreStep


@pytest.mark.usefixtures("guards", "threads")
class TestScoreStep(ScoreStep):
    backend = score_step
    out = torch.float32
