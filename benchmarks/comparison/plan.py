"""What is compared: the budget, how each method spends it, and what is tried to tune it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from gemkern.experiments.presets import PRESETS
from gemkern.experiments.settings import Settings, lengths

DENSITIES = (0.05, 0.0144)
# Of finding and finetuning together, and their steps.
EPOCHS, STEPS = 24, 50
# A tenth as many images are for validation.
TRAIN_LIMIT, BATCH = 13_500, 32
# Rounds in which the kinds of IMP come to the density, whatever it is.
ROUNDS = 6
# As much more than what comes to the density, so that no weight is left to one round more.
IN_ROUNDS = 1.001
# Settings that are tried for each method, at one density, on the validation split.
TRIES, DENSITY_OF_TRIES = 4, 0.0144
# Made of the ticket of Gem-Miner, with its settings: what shows whether that knows anything.
CHECKS = ("random", "shuffled", "reinitialised")
MINED = ("gem-miner", "inverted")
# Parts of the epochs that are left to finetuning.
WHOLE, HALF, QUARTER = 1.0, 0.5, 0.25

Changes = dict[str, Any]

_FINETUNE_LR = (0.05, 0.1)
_DRAWN = {"finetune_lr": (0.03, 0.06, 0.1, 0.2), "finetuned": (WHOLE,)}


def _searched(name: str, *values: float) -> dict[str, tuple[Any, ...]]:
    return {name: values, "finetune_lr": _FINETUNE_LR, "finetuned": (HALF,)}


def _trained(name: str) -> dict[str, tuple[Any, ...]]:
    """Return the tries of a method whose ticket holds trained weights."""
    return {name: (0.1, 0.2), "finetune_lr": (0.05,), "finetuned": (HALF, QUARTER)}


# What is tried for each method: all combinations. `finetuned` is the part of the epochs that
# finetuning has.
GRIDS: dict[str, Mapping[str, tuple[Any, ...]]] = {
    "dense": _DRAWN,
    "gem-miner": _searched("score_lr", 0.03, 0.1),
    "inverted": _searched("score_lr", 0.03, 0.1),
    "imp": _searched("imp_lr", 0.1, 0.2),
    "imp-cold": _searched("imp_lr", 0.1, 0.2),
    "imp-short": _searched("imp_lr", 0.1, 0.2) | {"finetuned": (0.75,)},
    "lr-rewind": _searched("imp_lr", 0.1, 0.2),
    "magnitude": _trained("magnitude_lr"),
    "rigl": _trained("rigl_lr"),
    "set": _trained("set_lr"),
    "smart-ratio": _DRAWN,
    "erk": _DRAWN,
    "snip": _DRAWN,
    "grasp": _DRAWN,
    "synflow": _DRAWN,
    "prospr": _DRAWN,
    "edge-popup": _searched("popup_lr", 0.1, 1.0),
    "global-edge-popup": _searched("global_popup_lr", 0.1, 1.0),
    "cts": _searched("cts_lr", 0.1, 0.3),
    "loft": _searched("loft_lr", 0.05, 0.1),
    "layer-tickets": _DRAWN,
}


def tries(method: str) -> Iterator[Changes]:
    """Yield what is tried for a method; a check has nothing of its own."""
    grid = GRIDS[method]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def settings(
    method: str, density: float, data_dir: str, chosen: Mapping[str, Any], epochs: int = EPOCHS
) -> Settings:
    """Return how a method spends `epochs` at a density, with what was chosen for it.

    IMP has as many rounds at either density, so that they fit in the epochs.
    """
    own = dict(chosen)
    tuned = max(1, round(own.pop("finetuned") * epochs))
    found = max(1, epochs - tuned)
    round_epochs = max(1, found // ROUNDS)
    return Settings.of(
        {
            **PRESETS["fashion-mnist"],
            "data": "benchmarks.comparison.images:halved",
            "data_dir": data_dir,
            "train_limit": TRAIN_LIMIT,
            "train_at_most": None,
            "model": "resnet20",
            "batch_size": BATCH,
            "epoch_steps": STEPS,
            "density": density,
            **lengths(found),
            # Tickets that are drawn at once keep as many weights as Gem-Miner's plan leaves.
            "mine_epochs": found if method in MINED else max(2, round(HALF * epochs)),
            "finetune_epochs": tuned,
            "finetune_schedule": "cosine",
            "freeze_every": 1,
            "imp_epochs": round_epochs,
            "imp_short_epochs": round_epochs,
            "imp_prune": IN_ROUNDS * (1 - math.exp(math.log(density) / ROUNDS)),
            "imp_rewind": str(round_epochs * STEPS // 2),
            "rigl_every": 20,
            "set_every": 20,
            "loft_local_steps": 10,
            "device": "cpu",
            **own,
        }
    )
