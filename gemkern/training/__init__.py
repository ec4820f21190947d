"""One training loop for every method, and the training of weights that several methods share."""

from gemkern.training.forms import Forms
from gemkern.training.loop import (
    EpochStats,
    Trainee,
    Training,
    evaluate,
    train,
    train_together,
)
from gemkern.training.rates import RATES, rate
from gemkern.training.step import Method
from gemkern.training.weights import WeightTraining

__all__ = [
    "RATES",
    "EpochStats",
    "Forms",
    "Method",
    "Trainee",
    "Training",
    "WeightTraining",
    "evaluate",
    "rate",
    "train",
    "train_together",
]
