"""Acceleration runs where it pays, says what it saved, and changes no result by measuring it."""

from __future__ import annotations

import pytest
import torch
from tiny_race import settings
from torch import nn

import gemkern as gk
from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.race import race
from gemkern.experiments.records import Run, Saving
from gemkern.experiments.savings import EpochTimes, step_times
from gemkern.experiments.search import mine
from gemkern.nn import is_accelerated, large_enough
from gemkern.optim import masked_layers
from gemkern.training import EpochStats

BATCH = 64


def sparse_model(laboratory: Laboratory, density: float) -> nn.Module:
    model = laboratory.fresh_model(seed=0)
    gk.convert(model)
    for layer in masked_layers(model).values():
        places = torch.arange(layer.active.numel()).view_as(layer.active)
        layer.active.copy_(places % 20 < 20 * density)
    return model


@pytest.mark.parametrize(
    ("density", "accelerate", "autocast", "batch", "expected"),
    [
        (0.1, True, "none", BATCH, True),
        (0.5, True, "none", BATCH, False),
        (0.1, False, "none", BATCH, False),
        (0.1, True, "none", BATCH - 1, False),
        (0.1, True, "bfloat16", BATCH, False),
    ],
)
def test_finetuning_is_accelerated_and_measured_where_that_pays(
    density: float, accelerate: bool, autocast: str, batch: int, expected: bool
) -> None:
    laboratory = Laboratory(
        settings(accelerate=accelerate, autocast=autocast, batch_size=batch, finetune_epochs=1)
    )
    savings: list[Saving] = []
    model = sparse_model(laboratory, density)
    notebook = Notebook("tested", 3, lambda record: None, savings.append)
    laboratory.finetune([model], density, [notebook])
    assert is_accelerated(model) is expected
    found = [(saving.method, saving.seed, saving.phase, saving.steps) for saving in savings]
    assert found == ([("tested", 3, "finetune", 128 // batch)] if expected else [])
    assert all(saving.dense_ms > 0 and saving.accelerated_ms > 0 for saving in savings)


def test_a_step_is_large_enough_by_its_pixels() -> None:
    assert large_enough(64, 8, 8)
    assert large_enough(8, 32, 16)
    assert not large_enough(63, 8, 8)


def test_dense_epochs_of_a_search_stand_for_those_that_were_saved() -> None:
    model = nn.Sequential(gk.MaskedLinear(2, 2))
    times = EpochTimes(model)
    for seconds in (4.0, 2.0, 3.0):
        assert times.saving("imp", 1, "find") is None
        times.add(EpochStats(1, loss=0.0, seconds=seconds, steps=10))
    model[0].compress()
    times.add(EpochStats(4, loss=0.0, seconds=3.0, steps=10))
    for seconds in (1.0, 2.0):
        times.add(EpochStats(5, loss=0.0, seconds=seconds, steps=10))
    assert times.steps == 20
    saving = times.saving("imp", 1, "find")
    assert saving == Saving("imp", 1, "find", 20, dense_ms=300.0, accelerated_ms=150.0)
    assert saving.seconds == pytest.approx(20 * 0.15)


def test_a_search_is_measured_once_it_is_sparse() -> None:
    savings: list[Saving] = []
    for seed, density in enumerate((0.3, 0.02)):
        laboratory = Laboratory(settings(density=density, batch_size=BATCH, mine_epochs=5))
        mine(laboratory, [Notebook("gem-miner", seed, lambda record: None, savings.append)])
    # Of the weights, 0.14 and 0.05 remain in the last two epochs on the way to 0.02.
    assert [(saving.seed, saving.phase, saving.steps) for saving in savings] == [(1, "find", 4)]


def test_measuring_steps_touches_neither_the_model_nor_random_numbers() -> None:
    laboratory = Laboratory(settings(batch_size=BATCH))
    model = gk.accelerate(sparse_model(laboratory, 0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    dense, accelerated = step_times(model, laboratory.finetuning, *laboratory.first_batch())
    assert dense > 0
    assert accelerated > 0
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert is_accelerated(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_contender_is_dense_and_one_accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory(settings(batch_size=BATCH))
    model = gk.accelerate(sparse_model(laboratory, 0.1))
    kinds: list[bool] = []

    def training(one: nn.Module) -> gk.training.WeightTraining:
        kinds.append(is_accelerated(one))
        return laboratory.finetuning(one)

    step_times(model, training, *laboratory.first_batch())
    assert kinds == [False, True]


def results(runs: list[Run]) -> list[tuple[float, float, dict[str, float]]]:
    return [(run.accuracy_before, run.accuracy_after, run.layer_density) for run in runs]


def test_a_race_has_the_same_results_without_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods, savings = ("gem-miner", "imp", "random"), []
    laboratory = Laboratory(settings(density=0.02, batch_size=BATCH, mine_epochs=5))
    runs = race(laboratory, methods, [0], on_saving=savings.append)
    assert {(saving.method, saving.phase) for saving in savings} == {
        ("gem-miner", "find"),
        ("imp", "find"),
        *((method, "finetune") for method in methods),
    }
    module = "gemkern.experiments.laboratory.step_times"
    monkeypatch.setattr(module, lambda *_: (1.0, 1.0))
    assert results(race(laboratory, methods, [0])) == results(runs)
