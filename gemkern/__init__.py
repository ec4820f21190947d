"""gemkern: lottery tickets found in one training run, on masked kernels for PyTorch.

The front door: what most users need is here; the rooms behind it are `gemkern.ops`, `nn`, `optim`,
`models`, `data`, `training` and `tickets`.
"""

from importlib.metadata import version

from gemkern import data, models, nn, ops, optim, tickets, training
from gemkern.errors import GemkernError
from gemkern.nn import (
    MaskedConv2d,
    MaskedLinear,
    accelerate,
    acceleration,
    convert,
    decelerate,
    mask_zeros,
    unconvert,
)
from gemkern.optim import MaskedSGD, ScoreAdam, ScoreSGD
from gemkern.tickets import IMP, GemMiner, Ticket

__version__ = version("gemkern")

__all__ = [
    "IMP",
    "GemMiner",
    "GemkernError",
    "MaskedConv2d",
    "MaskedLinear",
    "MaskedSGD",
    "ScoreAdam",
    "ScoreSGD",
    "Ticket",
    "__version__",
    "accelerate",
    "acceleration",
    "convert",
    "data",
    "decelerate",
    "mask_zeros",
    "models",
    "nn",
    "ops",
    "optim",
    "tickets",
    "training",
    "unconvert",
]
