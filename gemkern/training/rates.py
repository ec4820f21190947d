"""Learning-rate schedules: the factor on the base rate, a pure function of the epoch.

`epoch` counts finished epochs (0 for the first), `epochs` is the length of the run. An epoch past
the end keeps the last value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gemkern.errors import GemkernError

Rate = Callable[[int, int], float]

# Rare Gems, the authors' configurations: run length -> epochs at which the rate drops tenfold.
MILESTONES = {100: (50, 80), 150: (80, 120), 160: (80, 120), 200: (100, 150), 300: (150, 250)}


def constant(epoch: int, epochs: int) -> float:
    """Return 1, whatever the epoch."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Return half a cosine: 1 at the first epoch, towards 0 after the last."""
    return 0.5 * (1.0 + math.cos(math.pi * min(epoch, epochs) / epochs))


def multistep(epoch: int, epochs: int) -> float:
    """Return the paper's steps: a tenth at each milestone, E/2 and 2E/3 where none are given."""
    milestones = MILESTONES.get(epochs, (epochs // 2, 2 * epochs // 3))
    return 0.1 ** sum(epoch >= milestone for milestone in milestones)


RATES: dict[str, Rate] = {"constant": constant, "cosine": cosine, "multistep": multistep}


def rate(name: str) -> Rate:
    """Return the schedule called `name`.

    Raises:
        GemkernError: there is no schedule of that name.
    """
    if name not in RATES:
        raise GemkernError(f"no schedule is called {name!r}: choose one of {', '.join(RATES)}")
    return RATES[name]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, in place where a captured graph reads it there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
