"""One training loop for every method, and the training of weights that several methods share."""

from gemkern.training.loop import EpochStats, Method, evaluate, train
from gemkern.training.rates import RATES, rate
from gemkern.training.weights import WeightTraining

__all__ = ["RATES", "EpochStats", "Method", "WeightTraining", "evaluate", "rate", "train"]
