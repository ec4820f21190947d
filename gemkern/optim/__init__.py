"""Optimisers of scores, and of weights under a mask."""

from gemkern.optim.carrying import carrying
from gemkern.optim.layers import (
    MaskedLayer,
    density,
    is_masked,
    masked_layers,
    unwrapped,
    whole_shape,
)
from gemkern.optim.masked_sgd import MaskedSGD
from gemkern.optim.score_adam import ScoreAdam
from gemkern.optim.score_sgd import ScoreSGD

__all__ = [
    "MaskedLayer",
    "MaskedSGD",
    "ScoreAdam",
    "ScoreSGD",
    "carrying",
    "density",
    "is_masked",
    "masked_layers",
    "unwrapped",
    "whole_shape",
]
