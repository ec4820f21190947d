"""The laboratory trains alike for all and opens the test set last; a course adds up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from tiny_race import Opened, Race, finetuned, sealed, settings
from torch import Tensor, nn

import gemkern as gk
from gemkern.data import Dataset, Split
from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, as_data
from gemkern.experiments.records import EpochRecord, Phase
from gemkern.experiments.settings import Settings
from gemkern.experiments.work import Course
from gemkern.optim import masked_layers
from gemkern.tickets import Ticket, weights_left
from gemkern.training import evaluate

# Images of the digits that are not tests.
DIGITS = 1438
SPLITS = ("train", "validation", "test")


def filled(*phases: tuple[Phase, Sequence[float]], steps: int = 4) -> Course:
    """Return a course with epochs of the given seconds."""
    course, total = Course(0), 0.0
    for phase, durations in phases:
        for epoch, seconds in enumerate(durations, start=1):
            total += seconds
            times = {"seconds": total, "step_ms": 1e3 * seconds / steps}
            record = EpochRecord(
                "tested", 0, phase, epoch, density=0.5, loss=1.0, validation_accuracy=0.9, **times
            )
            course.records.append(record)
    return course


def half_masked(laboratory: Laboratory, seed: int = 0) -> nn.Module:
    model = laboratory.fresh_model(seed)
    gk.convert(model)
    for layer in masked_layers(model).values():
        layer.active.view(-1)[::2] = False
    return model


def half_ticket(laboratory: Laboratory, seed: int = 0) -> Ticket:
    return Ticket.from_model(half_masked(laboratory, seed), method="half", seed=seed)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 144), (0.25, 359), (1e-4, 10)])
def test_a_fraction_of_the_training_images_validates(fraction: float, held_out: int) -> None:
    data = Laboratory(Settings.of({"validation": fraction})).data
    assert isinstance(data, Dataset)
    assert abs(len(data.validation) - held_out) <= 5, "rounded class by class"
    assert len(data.train) + len(data.validation) == DIGITS


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_all_or_nothing_cannot_validate(fraction: float) -> None:
    with pytest.raises(GemkernError, match=rf"validation is {fraction}: give a fraction"):
        Laboratory(Settings.of({"validation": fraction}))


def test_a_record_says_all_of_its_epoch_and_is_handed_on() -> None:
    held = Race(Laboratory(settings())).hold(["imp"], [3])
    first, second = held.records[:2]
    assert (first.method, first.seed, first.phase, first.epoch) == ("imp", 3, "find", 1)
    assert second.seconds > first.seconds > 0
    assert first.step_ms == pytest.approx(1e3 * first.seconds / 4), "four batches of 32 images"
    assert second.step_ms == pytest.approx(1e3 * (second.seconds - first.seconds) / 4)
    assert 0 <= first.validation_accuracy <= 1
    assert first.density == 0.5


def test_seconds_belong_to_their_phase() -> None:
    course = filled(("find", [2.0, 1.0]), ("finetune", [4.0, 0.5, 0.5]))
    assert (course.seconds("find"), course.seconds("finetune")) == (3.0, 5.0)
    assert (len(course.of("find")), len(course.of("finetune"))) == (2, 3)


def test_a_phase_that_was_not_run_took_no_time() -> None:
    assert filled(("find", [2.0])).seconds("finetune") == 0.0
    assert filled(("finetune", [3.0])).seconds("find") == 0.0
    assert filled(("finetune", [3.0])).seconds("finetune") == 3.0


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
    assert filled(*phases).step_ms() == pytest.approx(expected)


def test_a_fresh_model_is_a_function_of_its_seed_and_fits_the_data() -> None:
    laboratory = Laboratory(settings())
    first = laboratory.fresh_model(5)
    torch.rand(3)
    assert same(first.state_dict(), laboratory.fresh_model(5).state_dict())
    assert not same(first.state_dict(), laboratory.fresh_model(6).state_dict())
    images = laboratory.data.train.images[:2].float()
    assert first(images).shape == (2, laboratory.data.classes)


def test_batches_of_a_seed_go_on_epoch_after_epoch() -> None:
    laboratory = Laboratory(settings())
    count = len(laboratory.data.training(laboratory.settings.batch_size, 3))
    drawn = [labels.tolist() for _, labels in islice(laboratory.batches(3), 2 * count)]
    again = [labels.tolist() for _, labels in islice(laboratory.batches(3), count)]
    assert drawn[:count] == again
    assert drawn[:count] != drawn[count:]


def test_finetuning_keeps_masked_weights_exactly_zero() -> None:
    laboratory = Laboratory(settings())
    ticket = half_ticket(laboratory)
    _, work = finetuned(laboratory, ticket, 0)
    before = ticket.weights
    assert before is not None
    for name, layer in masked_layers(work.model).items():
        assert not layer.weight[~layer.active].any(), name
        moved = layer.weight != before[f"{name}.weight"]
        assert moved[layer.active].float().mean() > 0.9, name
    (course,) = work.courses
    assert [(record.phase, record.epoch, record.density) for record in course.records] == [
        ("finetune", 1, ticket.density),
        ("finetune", 2, ticket.density),
    ]


def test_a_search_runs_to_its_end_and_its_densities_are_written_down() -> None:
    laboratory = Laboratory(settings())
    held = Race(laboratory).hold(["gem-miner"])
    total = laboratory.maskable_weights
    planned = [1.0, *(left / total for left in weights_left(total, 0.3, 3, 1))]
    found = [record.density for record in held.records if record.phase == "find"]
    assert found == planned
    assert held.tickets["gem-miner", 0].density == planned[-1]


def test_epochs_are_judged_on_the_validation_split() -> None:
    laboratory = Laboratory(settings())
    run, work = finetuned(laboratory, half_ticket(laboratory), 0)
    accuracies = {split: evaluate(work.model, laboratory.data, split) for split in SPLITS}
    assert len(set(accuracies.values())) == len(SPLITS), "the splits can be told apart"
    assert work.courses[0].records[-1].validation_accuracy == accuracies["validation"]
    assert run.accuracy_after == laboratory.test(work.model) == accuracies["test"]


def test_the_test_set_is_opened_by_a_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory(settings())
    laboratory.data = dataclasses.replace(laboratory.data, test=sealed(laboratory.data.test))
    with pytest.raises(Opened):
        laboratory.test(laboratory.fresh_model(0))
    monkeypatch.setattr(Laboratory, "test", lambda laboratory, model: 0.5)
    Race(laboratory).hold(["gem-miner", "dense"])


def blackened(laboratory: Laboratory, split: str) -> Laboratory:
    original: Split = getattr(laboratory.data, split)
    black = Split(torch.zeros_like(original.images), original.labels)
    laboratory.data = dataclasses.replace(laboratory.data, **{split: black})
    return laboratory


@pytest.mark.parametrize("split", SPLITS)
def test_weights_learn_from_the_training_split_alone(split: str) -> None:
    learnt = []
    for laboratory in (Laboratory(settings()), blackened(Laboratory(settings()), split)):
        _, work = finetuned(laboratory, half_ticket(laboratory), 0)
        learnt.append(weights(work.model))
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


@pytest.mark.parametrize("nesterov", [True, False])
def test_finetuning_looks_ahead_where_that_is_asked_for(nesterov: bool) -> None:
    laboratory = Laboratory(settings(finetune_nesterov=nesterov))
    optimizer = laboratory.finetuning(laboratory.fresh_model(0)).optimizer
    assert [group["nesterov"] for group in optimizer.param_groups] == [nesterov]


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


def test_an_epoch_ends_after_the_steps_that_it_is_given() -> None:
    data = Laboratory(settings(epoch_steps=2)).data
    assert len(data.training(32, seed=0)) == 2


def test_the_length_of_a_loaders_epoch_is_its_own() -> None:
    loader = [(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))]
    with pytest.raises(GemkernError, match="epoch_steps ends epochs"):
        Laboratory(settings(epoch_steps=2), data=as_data((loader, loader)))


def test_a_method_trains_on_batches_of_its_own_size() -> None:
    laboratory = Laboratory(settings(batch_sizes="imp=64,snip=16"))
    first = {}
    for record in Race(laboratory).hold(["imp", "dense"], [0]).records:
        first.setdefault(record.method, record)
    steps = {name: round(1e3 * one.seconds / one.step_ms) for name, one in first.items()}
    assert steps == {"imp": 2, "dense": 4}
    assert len(next(laboratory.batches(0, "snip"))[1]) == 16
    assert len(laboratory.first_batch()[1]) == 32


@pytest.mark.parametrize(("said", "sentence"), [("imp=0", "a batch of 0"), ("imp=129", "of 129")])
def test_batches_that_cannot_be_are_refused_before_anything_runs(said: str, sentence: str) -> None:
    with pytest.raises(GemkernError, match=sentence):
        Laboratory(settings(batch_sizes=said))
