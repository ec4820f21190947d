"""The notebook adds up, and the laboratory trains alike for all and opens the test set last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from tiny_race import Opened, sealed, settings
from torch import Tensor, nn

import gemkern as gk
from gemkern.data import Split
from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.records import EpochRecord, Phase
from gemkern.optim import masked_layers
from gemkern.tickets import GemMiner, Ticket, weights_left
from gemkern.training import EpochStats, evaluate

SPLITS = ("train", "validation", "test")


def silent_notebook(seed: int = 0) -> Notebook:
    return Notebook("tested", seed, on_epoch=lambda record: None)


def filled_notebook(*phases: tuple[Phase, Sequence[float]], steps: int = 4) -> Notebook:
    """Return a notebook with epochs of the given seconds."""
    notebook = silent_notebook()
    for phase, durations in phases:
        for epoch, seconds in enumerate(durations, start=1):
            stats = EpochStats(epoch, loss=1.0, seconds=seconds, steps=steps)
            notebook.write(phase, stats, density=0.5, validation=0.9)
    return notebook


def half_masked(laboratory: Laboratory, seed: int = 0) -> nn.Module:
    model = laboratory.fresh_model(seed)
    gk.convert(model)
    for layer in masked_layers(model).values():
        layer.active.view(-1)[::2] = False
    return model


def miner(laboratory: Laboratory) -> GemMiner:
    model = laboratory.fresh_model(0)
    gk.convert(model, scores=True)
    return GemMiner(model, 0.3, 3, 1, optimizer="adam", lr=0.05, seed=0)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_record_says_all_of_its_epoch_and_is_handed_on() -> None:
    seen: list[EpochRecord] = []
    notebook = Notebook("imp", 3, seen.append)
    notebook.write("find", EpochStats(7, loss=0.25, seconds=2.0, steps=8), 0.5, validation=0.75)
    expected = EpochRecord(
        method="imp",
        seed=3,
        phase="find",
        epoch=7,
        density=0.5,
        loss=0.25,
        validation_accuracy=0.75,
        seconds=2.0,
        step_ms=250.0,
    )
    assert notebook.records == seen == [expected]


def test_seconds_go_on_from_epoch_to_epoch_and_belong_to_their_phase() -> None:
    notebook = filled_notebook(("find", [2.0, 1.0]), ("finetune", [4.0, 0.5, 0.5]))
    assert [record.seconds for record in notebook.records] == [2.0, 3.0, 7.0, 7.5, 8.0]
    assert (notebook.seconds("find"), notebook.seconds("finetune")) == (3.0, 5.0)
    assert (notebook.epochs("find"), notebook.epochs("finetune")) == (2, 3)


def test_a_phase_that_was_not_run_took_no_time() -> None:
    searched, finetuned = filled_notebook(("find", [2.0])), filled_notebook(("finetune", [3.0]))
    assert (searched.epochs("finetune"), searched.seconds("finetune")) == (0, 0.0)
    assert (finetuned.epochs("find"), finetuned.seconds("find")) == (0, 0.0)
    assert finetuned.seconds("finetune") == 3.0


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([("find", [0.4, 0.8, 40.0]), ("finetune", [4.0, 4.0, 4.0])], 200.0),
        ([("finetune", [0.4, 40.0, 1.2])], 300.0),
    ],
)
def test_the_step_is_a_median_of_the_search_if_there_was_one(
    phases: list[tuple[Phase, list[float]]], expected: float
) -> None:
    assert filled_notebook(*phases).step_ms() == pytest.approx(expected)


def test_a_fresh_model_is_a_function_of_its_seed_and_fits_the_data() -> None:
    laboratory = Laboratory(settings())
    first = laboratory.fresh_model(5)
    torch.rand(3)
    assert same(first.state_dict(), laboratory.fresh_model(5).state_dict())
    assert not same(first.state_dict(), laboratory.fresh_model(6).state_dict())
    images = laboratory.dataset.train.images[:2].float()
    assert first(images).shape == (2, laboratory.dataset.classes)


def test_finetuning_keeps_masked_weights_exactly_zero() -> None:
    laboratory, notebook = Laboratory(settings()), silent_notebook()
    model = half_masked(laboratory)
    before = weights(model)
    laboratory.finetune([model], 0.5, [notebook])
    for name, layer in masked_layers(model).items():
        assert not layer.weight[~layer.active].any(), name
        moved = layer.weight != before[f"{name}.weight"]
        assert moved[layer.active].float().mean() > 0.9, name
    assert [(record.phase, record.epoch, record.density) for record in notebook.records] == [
        ("finetune", 1, 0.5),
        ("finetune", 2, 0.5),
    ]


def test_a_search_runs_to_its_end_and_its_densities_are_written_down() -> None:
    laboratory, notebook = Laboratory(settings()), silent_notebook()
    search = miner(laboratory)
    laboratory.find([search], [notebook])
    planned = [1.0, *(left / search.total for left in weights_left(search.total, 0.3, 3, 1))]
    assert [record.density for record in notebook.records] == planned
    assert {record.phase for record in notebook.records} == {"find"}
    assert search.ticket().density == planned[-1]


def test_epochs_are_judged_on_the_validation_split() -> None:
    laboratory, notebook = Laboratory(settings()), silent_notebook()
    model = half_masked(laboratory)
    laboratory.finetune([model], 0.5, [notebook])
    dataset = laboratory.dataset
    accuracies = {split: evaluate(model, getattr(dataset, split), dataset) for split in SPLITS}
    assert len(set(accuracies.values())) == len(SPLITS), "the splits can be told apart"
    assert notebook.records[-1].validation_accuracy == accuracies["validation"]
    assert laboratory.test(model) == accuracies["test"]


def test_the_test_set_is_opened_by_a_test_alone() -> None:
    laboratory = Laboratory(settings())
    laboratory.dataset = dataclasses.replace(
        laboratory.dataset, test=sealed(laboratory.dataset.test)
    )
    search = miner(laboratory)
    laboratory.find([search], [silent_notebook()])
    model = laboratory.with_ticket(search.ticket(), 0)
    laboratory.finetune([model], 0.3, [silent_notebook()])
    with pytest.raises(Opened):
        laboratory.test(model)


def blackened(laboratory: Laboratory, split: str) -> Laboratory:
    original: Split = getattr(laboratory.dataset, split)
    black = Split(torch.zeros_like(original.images), original.labels)
    laboratory.dataset = dataclasses.replace(laboratory.dataset, **{split: black})
    return laboratory


@pytest.mark.parametrize("split", SPLITS)
def test_weights_learn_from_the_training_split_alone(split: str) -> None:
    learnt = []
    for laboratory in (Laboratory(settings()), blackened(Laboratory(settings()), split)):
        model = half_masked(laboratory)
        laboratory.finetune([model], 0.5, [silent_notebook()])
        learnt.append(weights(model))
    assert same(*learnt) is (split != "train")


def test_a_ticket_makes_a_fresh_model_ready_to_finetune() -> None:
    laboratory = Laboratory(settings())
    ticket = Ticket.from_model(half_masked(laboratory, seed=4), method="half", seed=4)
    model = laboratory.with_ticket(ticket, seed=4)
    fresh = laboratory.fresh_model(4).state_dict()
    for name, layer in masked_layers(model).items():
        assert torch.equal(layer.active, ticket.masks[name])
        assert torch.equal(layer.weight, fresh[f"{name}.weight"] * layer.active)


@pytest.mark.parametrize("method", ["gem-miner", "imp", "dense"])
def test_a_ticket_that_knows_a_checksum_gets_the_weights_of_its_method(method: str) -> None:
    laboratory = Laboratory(settings())
    begun = laboratory.fresh_model(4, method)
    gk.convert(begun)
    known = Ticket.from_model(begun, method=method, seed=4)
    model = laboratory.with_ticket(dataclasses.replace(known, weights=None), seed=4)
    assert same(weights(model), weights(begun))


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (129, "a batch of 129 images is larger than the 128 training images: lower it with"),
        (0, "a batch of 0 images"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(batch_size: int, message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        Laboratory(settings(batch_size=batch_size))
    assert Laboratory(settings(batch_size=128)).settings.batch_size == 128


def test_fewer_than_one_seed_at_once_is_refused() -> None:
    with pytest.raises(GemkernError, match="0 seeds at once train nothing: give --set seeds_at_on"):
        Laboratory(settings(seeds_at_once=0))
