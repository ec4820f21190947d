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
from gemkern.optim.sign_in import SignInSGD

__all__ = [
    "MaskedLayer",
    "MaskedSGD",
    "ScoreAdam",
    "ScoreSGD",
    "SignInSGD",
    "carrying",
    "density",
    "is_masked",
    "masked_layers",
    "unwrapped",
    "whole_shape",
]
