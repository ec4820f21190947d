"""A comparison gives each method as many steps and as many tries, and shows what it kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.comparison import plan, report
from benchmarks.comparison.__main__ import chosen, epochs_in_time
from benchmarks.comparison.running import Task, key
from gemkern.data import Augment, Dataset, Split
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.tickets import METHODS


@pytest.fixture(scope="module")
def images() -> Dataset:
    numbers = torch.Generator().manual_seed(0)
    shape = (4 * plan.BATCH * plan.STEPS // 50, 1, 14, 14)
    pixels = torch.randint(0, 256, shape, generator=numbers).byte()
    split = Split(pixels, torch.arange(len(pixels)) % 10)
    return Dataset("made", 10, split, split, split, (0.5,), (0.3,), Augment())


def test_every_method_is_compared() -> None:
    assert {*plan.GRIDS, *plan.CHECKS} == set(METHODS)


@pytest.mark.parametrize("method", plan.GRIDS)
def test_every_method_has_as_many_tries(method: str) -> None:
    tries = list(plan.tries(method))
    assert len(tries) == plan.TRIES == len({str(one) for one in tries})


@pytest.mark.parametrize("density", plan.DENSITIES)
@pytest.mark.parametrize("method", plan.GRIDS)
def test_every_method_has_as_many_steps(method: str, density: float, images: Dataset) -> None:
    for one in plan.tries(method):
        settings = plan.settings(method, density, "nowhere", one)
        found = rehearse(Laboratory(settings, data=images), [method])[method]
        assert found + settings.finetune_epochs == plan.EPOCHS


def test_all_tickets_keep_as_many_weights(images: Dataset) -> None:
    counts = {
        Laboratory(
            plan.settings(method, 0.05, "nowhere", next(plan.tries(method))), data=images
        ).matched_weights
        for method in plan.GRIDS
    }
    assert len(counts) == 1


def row(table: str, method: str, **values: Any) -> dict[str, Any]:
    plain = {
        "density": 0.0144, "seed": 0, "chosen": {"finetune_lr": 0.1}, "epochs": plan.EPOCHS,
        "validation_accuracy": 0.5, "accuracy_before": 0.4, "accuracy_after": 0.6,
        "find_epochs": 12, "finetune_epochs": 12, "find_seconds": 6.0, "finetune_seconds": 4.0,
    }  # fmt: skip
    return {"table": table, "method": method, **plain, **values}


def test_what_was_best_on_the_validation_split_is_chosen() -> None:
    rows = [
        row("tries", "snip", chosen={"finetune_lr": lr}, validation_accuracy=accuracy)
        for lr, accuracy in ((0.1, 0.3), (0.2, 0.7), (0.4, 0.5), (0.8, 0.6))
    ]
    other = row("tries", "erk", validation_accuracy=1.0)
    assert chosen([*rows, other], "snip") == {"finetune_lr": 0.2}
    with pytest.raises(AssertionError, match="tune first"):
        chosen(rows[:3], "snip")


def test_equal_seconds_are_those_of_gem_miner_at_equal_steps() -> None:
    rows = [
        row("steps", "gem-miner"),
        row("steps", "gem-miner", seed=1),
        row("steps", "dense", density=0.05, find_seconds=0.0, finetune_seconds=20.0),
        row("steps", "erk", find_seconds=0.0, finetune_seconds=5.0),
    ]
    assert epochs_in_time(rows, "dense", 0.0144) == plan.EPOCHS // 2
    assert epochs_in_time(rows, "erk", 0.0144) == 2 * plan.EPOCHS


def test_a_row_is_known_again_by_its_task() -> None:
    task = Task("steps", "snip", 0.05, 1, {"finetune_lr": 0.1})
    assert key(row("steps", "snip", density=0.05, seed=1)) == task.key
    assert key(row("steps", "snip", density=0.05, seed=2)) != task.key


def test_tables_show_means_spreads_and_what_is_not_there() -> None:
    found = {
        "runs": [
            row("steps", "gem-miner"),
            row("steps", "gem-miner", seed=1, accuracy_after=0.7, find_seconds=8.0),
            row("steps", "random", density=0.05, accuracy_after=0.25),
            row("seconds", "gem-miner", epochs=31),
            *(row("tries", "snip", chosen={"finetune_lr": lr}) for lr in (1, 2, 3, 4)),
        ],
        "devices": [{"device": "cpu", "name": "a machine", "torch_threads": 2}],
        "versions": {"torch": "2", "numba": "0", "python": "3"},
        "commit": "", "changed": False,
    }  # fmt: skip
    steps = report.steps_block("name", found)
    assert "| gem-miner | 12 + 12 | - | - | - | 40.00 ± 0.00 | 65.00 ± 7.07 | 11.0 ± 1.4 |" in steps
    assert "| random | 12 + 12 | 40.00 | 25.00 | 10.0 | - | - | - |" in steps
    assert "| gem-miner | 31 | 60.00 |" in report.seconds_block("name", found)
    assert "| snip | finetune_lr 1 | 50.0 | 50.0 |" in report.tries_block("name", found)
