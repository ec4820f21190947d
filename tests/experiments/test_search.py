"""What cannot be raced is refused before anything trains."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tiny_race import settings

from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.race import race
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.search import (
    SEARCHES,
    VARIATIONS,
    check_methods,
    imp_rounds,
    matched_weights,
    rehearse,
)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), "methods are missing or repeated: give --methods as a list out of dense, gem-miner"),
        (("imp", "dense", "imp"), "methods are missing or repeated"),
        (("gem-miner", "luck"), "'luck' is not a method: give --methods as a list out of dense"),
        *(
            ((method, "imp"), f"{method} is drawn from Gem-Miner's ticket: add gem-miner")
            for method in VARIATIONS
        ),
    ],
)
def test_methods_that_do_not_fit_are_named(methods: tuple[str, ...], message: str) -> None:
    epochs: list[EpochRecord] = []
    with pytest.raises(GemkernError, match=re.escape(message)):
        race(Laboratory(settings()), methods, [0], on_epoch=epochs.append)
    assert not epochs


def test_every_method_alone_or_beside_gem_miner_fits() -> None:
    for method in ("dense", *SEARCHES):
        check_methods((method,))
    check_methods((*VARIATIONS, "gem-miner"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_every": 3}, "freezing every 3 epochs never happens in a search of 3"),
        ({"density": 1e-6}, "no weight of 74512 would be left"),
        ({"score_optimizer": "adagrad"}, "optimizer cannot be 'adagrad'"),
        ({"imp_prune": 1.0}, "a round cannot prune 1"),
        ({"imp_rewind": "later"}, "IMP cannot rewind to 'later'"),
        ({"imp_lr": float("nan")}, "lr is nan"),
        ({"finetune_lr": -1.0}, "lr is -1.0"),
        ({"finetune_epochs": 0}, "training lasts 0 epochs"),
        ({"finetune_schedule": "steep"}, "no schedule is called 'steep'"),
        ({"model": "resnet21"}, "no model is called 'resnet21'"),
        *(
            ({f"{part}_init": "zeros"}, "no initialisation is called 'zeros'")
            for part in ("mine", "imp", "smart_ratio", "dense")
        ),
    ],
)
def test_a_rehearsal_finds_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GemkernError, match=re.escape(message)):
        rehearse(Laboratory(settings(**changes)))


def test_settings_that_fit_pass_the_rehearsal() -> None:
    rehearse(Laboratory(settings()))


@pytest.mark.parametrize(
    ("changes", "weights", "rounds"),
    [
        ({"density": 0.25, "mine_epochs": 2, "imp_prune": 0.5}, 250, 2),
        ({"density": 0.24, "mine_epochs": 2, "imp_prune": 0.5}, 240, 3),
        ({"density": 0.5, "mine_epochs": 2, "imp_prune": 0.2}, 500, 4),
    ],
)
def test_rivals_are_planned_to_the_weights_that_gem_miner_leaves(
    changes: dict[str, Any], weights: int, rounds: int
) -> None:
    assert matched_weights(settings(**changes), 1000) == weights
    assert imp_rounds(settings(**changes), 1000) == rounds
