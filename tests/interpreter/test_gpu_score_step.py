"""score_step in Triton: bit for bit that of the reference, over many steps, in place."""

from __future__ import annotations

import torch
from gemkern.kernels.gpu import score_step
from suites.score_step import ScoreStep


class TestScoreStep(ScoreStep):
    backend = score_step
    out = torch.float16
