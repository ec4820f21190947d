"""gemkern: lottery tickets found in one training run, on masked kernels for PyTorch.

The front door: what most users need is here; the rooms behind it are `gemkern.ops`, `nn`, `optim`,
`models`, `data`, `training`, `tickets` and `experiments`.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
if not (_ROOT / "gemkern" / "kernels").is_dir() and (_ROOT / "kernels").is_dir():
    # In a clone, where `kernels/` stands beside this package.
    __path__.append(str(_ROOT))

if "torch" not in sys.modules:
    # Before PyTorch starts its threads.
    from gemkern import starting, waiting

    waiting.prepare()
    if waiting.is_command():
        starting.stop_at_once()

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
from gemkern.optim import MaskedSGD, ScoreAdam, ScoreSGD, density, masked_layers
from gemkern.racing import Race, race
from gemkern.tickets import IMP, GemMiner, Ticket

try:
    __version__ = version("gemkern")
except PackageNotFoundError:
    __version__ = "not installed"

__all__ = [
    "IMP",
    "GemMiner",
    "GemkernError",
    "MaskedConv2d",
    "MaskedLinear",
    "MaskedSGD",
    "Race",
    "ScoreAdam",
    "ScoreSGD",
    "Ticket",
    "__version__",
    "accelerate",
    "acceleration",
    "convert",
    "data",
    "decelerate",
    "density",
    "mask_zeros",
    "masked_layers",
    "models",
    "nn",
    "ops",
    "optim",
    "race",
    "tickets",
    "training",
    "unconvert",
]
