"""A model trains in its fastest form; what was decided is recorded, replayed and resumed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.models import build
from gemkern.nn import form_of
from gemkern.optim import masked_layers
from gemkern.training import WeightTraining, forms, trial

MEASURING = trial.MEASURING
TURN = MEASURING.warm_up + MEASURING.steps
Costs = Callable[[list[str]], float]


class Clock:
    """Time that passes by steps alone; a step costs what the form of its model does."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(forms, "time", found)
    return found


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the layers that are slower sparse, to be filled."""
    names: set[str] = set()
    monkeypatch.setattr(forms, "slower_sparse", lambda layers, inputs: names)
    return names


def network(scores: bool = False) -> nn.Module:
    model = build("resnet8", seed=0, affine=True, init="kaiming_normal", image_size=8)
    gk.convert(model, scores=scores)
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(step)
    labels = torch.randint(5, (16,), generator=stream)
    images = torch.randn(16, 3, 8, 8, generator=stream)
    return images + labels.view(-1, 1, 1, 1) / 4, labels


def compressed(model: nn.Module) -> list[str]:
    return form_of(model)["compressed"]


def step(model: nn.Module, method: Any, clock: Clock, costs: Costs) -> None:
    x, labels = batch(method.forms.steps)
    F.cross_entropy(model(x), labels).backward()
    clock.now += costs(compressed(model))
    method.step()


def by_kind(dense: float, sparse: float, mixed: float = 1e9) -> Costs:
    def costs(names: list[str]) -> float:
        return {0: dense, LAYERS: sparse}.get(len(names), mixed)

    return costs


LAYERS = len(masked_layers(network()))
NAMES = list(masked_layers(network()))


def training(accelerated: Any) -> tuple[nn.Module, WeightTraining]:
    model = network()
    return model, WeightTraining(model, 1, lr=0.05, accelerated=accelerated)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        (by_kind(1.0, 0.5, 0.7), NAMES),
        (by_kind(0.5, 1.0, 0.7), []),
        (by_kind(0.8, 1.0, 0.5), NAMES[1:]),
    ],
)
def test_the_fastest_form_is_taken(
    costs: Costs, expected: list[str], clock: Clock, slower: set[str]
) -> None:
    slower.add(NAMES[0])
    model, method = training(True)
    assert compressed(model) == []
    for _ in range(3 * TURN + 1):
        step(model, method, clock, costs)
    assert compressed(model) == expected
    (decided,) = [entry for entry in method.forms.record if "ms" in entry]
    assert decided["compressed"] == expected
    assert set(decided["ms"]) == {"dense", "sparse", "mixed"}
    assert decided["ms"]["dense"] == pytest.approx(1e3 * costs([]))
    assert method.forms.dense_ms == decided["ms"]["dense"]


def test_layers_that_are_all_faster_make_no_third_form(clock: Clock, slower: set[str]) -> None:
    model, method = training(True)
    for _ in range(2 * TURN + 1):
        step(model, method, clock, by_kind(1.0, 0.5))
    assert set(method.forms.record[-1]["ms"]) == {"dense", "sparse"}
    assert compressed(model) == NAMES


def test_as_many_weights_at_other_places_are_not_measured_anew(
    clock: Clock, slower: set[str]
) -> None:
    model, method = training(True)
    # So close that another trial might end otherwise.
    costs = by_kind(1.0, 0.95)
    while not any("ms" in entry for entry in method.forms.record):
        step(model, method, clock, costs)
    decided = len(method.forms.record)
    method.forms.masks_changed()
    for _ in range(2 * TURN):
        step(model, method, clock, costs)
    assert len(method.forms.record) == decided
    layer = next(iter(masked_layers(model).values()))
    layer.active[:5] = False
    method.forms.masks_changed()
    for _ in range(5 * TURN):
        step(model, method, clock, costs)
    assert len(method.forms.record) > decided


def test_what_is_close_gets_another_turn_and_what_is_not_gets_none(
    clock: Clock, slower: set[str]
) -> None:
    slower.add(NAMES[0])
    model, method = training(True)
    kinds = []
    for _ in range(5 * TURN + 2):
        kinds.append(len(compressed(model)))
        step(model, method, clock, by_kind(1.0, 0.95, 1.5))
    assert kinds[: 5 * TURN] == [
        kind for kind in (0, LAYERS, LAYERS - 1, 0, LAYERS) for _ in range(TURN)
    ]
    assert compressed(model) == NAMES


def test_time_that_is_no_step_does_not_count(clock: Clock, slower: set[str]) -> None:
    model, method = training(True)
    for i in range(3 * TURN):
        if i % 4 == 3:
            clock.now += 100.0
            method.forms.pause()
        step(model, method, clock, by_kind(1.0, 0.5))
    assert method.forms.record[-1]["ms"] == pytest.approx({"dense": 1e3, "sparse": 500.0})
    assert method.forms.sparse_ms == pytest.approx(500.0)


def miner(model: nn.Module, accelerated: Any, epochs: int = 5) -> gk.GemMiner:
    return gk.GemMiner(model, 0.02, epochs, 1, seed=1, fused=True, accelerated=accelerated)


def imp(model: nn.Module, accelerated: Any) -> gk.IMP:
    return gk.IMP(model, 0.1, 1, prune=0.5, rewind=2, lr=0.05, accelerated=accelerated)


SEARCHES = pytest.mark.parametrize(("make", "scores"), [(miner, True), (imp, False)])


def epoch(model: nn.Module, search: Any, clock: Clock, costs: Costs, steps: int = 8) -> None:
    for _ in range(steps):
        step(model, search, clock, costs)
    search.end_epoch()


def assert_same_tickets(ours: gk.Ticket, theirs: gk.Ticket) -> None:
    for own, other in ((ours.masks, theirs.masks), (ours.weights or {}, theirs.weights or {})):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


@SEARCHES
def test_a_replayed_search_comes_to_the_same_bits(
    make: Any, scores: bool, clock: Clock, slower: set[str]
) -> None:
    slower.add(NAMES[0])
    model = network(scores)
    search = make(model, "measure")
    for _ in range(search.epochs):
        epoch(model, search, clock, by_kind(1.0, 0.7, 0.5))
    record = search.forms.record
    assert len({len(entry["compressed"]) for entry in record}) == 3
    again = network(scores)
    replayed = make(again, record)
    for _ in range(search.epochs):
        epoch(again, replayed, clock, by_kind(0.1, 5.0, 5.0))
    assert_same_tickets(replayed.ticket(), search.ticket())
    dense = network(scores)
    other = make(dense, "never")
    for _ in range(search.epochs):
        epoch(dense, other, clock, by_kind(1.0, 0.5, 0.7))
    with pytest.raises(AssertionError):
        assert_same_tickets(other.ticket(), search.ticket())


@SEARCHES
@pytest.mark.parametrize("stop", [1, 3, TURN + 1, 2 * TURN + 3])
def test_a_measured_search_resumes_in_the_middle_of_its_trial(
    make: Any, scores: bool, stop: int, clock: Clock, slower: set[str]
) -> None:
    slower.add(NAMES[0])
    costs = by_kind(1.0, 0.7, 0.5)
    model = network(scores)
    search = make(model, "measure")
    steps = 4 * TURN

    def finish(one: nn.Module, own: Any) -> None:
        for _ in range(stop, steps):
            step(one, own, clock, costs)
        own.end_epoch()
        for _ in range(own.epoch, own.epochs):
            epoch(one, own, clock, costs)

    for _ in range(stop):
        step(model, search, clock, costs)
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    again = network(scores)
    resumed = make(again, "measure")
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    finish(model, search)
    finish(again, resumed)
    if stop > 1:
        # A step that was not timed, the first after a pause, makes its turn one longer.
        assert [one["compressed"] for one in resumed.forms.record] == [
            one["compressed"] for one in search.forms.record
        ]
    assert resumed.ticket().weights_left == search.ticket().weights_left


def test_freezes_are_measured_anew_while_the_answer_may_change(
    clock: Clock, slower: set[str]
) -> None:
    """A sparse step can at best take the part of the time that remains of the weights."""
    model = network(scores=True)
    search = miner(model, True, epochs=8)
    trials = []
    for index in range(7):
        # Dense steps take 1; sparse ones 6 at first, and then what is left of the weights, but 0.2.
        sparse = max(6.0 * search.density, 0.2)
        before = len(search.forms.record)
        epoch(model, search, clock, by_kind(1.0, sparse), steps=2 * TURN + 2)
        decided = [one for one in search.forms.record[before:] if "ms" in one]
        trials.append(len(decided))
        assert bool(compressed(model)) == (sparse < 1.0) or index == 6
    first = trials.index(1, 1)
    assert trials[0] == 1
    # As soon as it can be faster, and never after it clearly was.
    assert sum(trials) == 2
    assert sum(trials[:first]) == 1


def test_a_freeze_is_followed_by_what_runs_sparse(clock: Clock, slower: set[str]) -> None:
    model = network(scores=True)
    search = miner(model, "always")
    for index in range(4):
        epoch(model, search, clock, by_kind(1.0, 1.0))
        assert compressed(model) == NAMES
        left = sum(layer.weight.numel() for layer in masked_layers(model).values())
        assert left == search.weights_left, index
    epoch(model, search, clock, by_kind(1.0, 1.0))
    assert compressed(model) == []


def test_a_model_that_was_accelerated_by_hand_is_measured_as_it_is(
    clock: Clock, slower: set[str]
) -> None:
    model = network()
    for layer in masked_layers(model).values():
        layer.active.view(-1)[: layer.active.numel() * 9 // 10] = False
    gk.accelerate(model)
    method = WeightTraining(model, 1, accelerated=True)
    for _ in range(2 * TURN + 1):
        step(model, method, clock, by_kind(1.0, 2.0))
    assert compressed(model) == []


def test_a_model_without_masks_stays_as_it_is() -> None:
    model = build("resnet8", seed=0, image_size=8)
    method = WeightTraining(model, 1, accelerated=True)
    assert method.forms.never
    assert method.forms.record == []


def test_nothing_of_the_measuring_stays_on_the_model(clock: Clock, slower: set[str]) -> None:
    model, method = training(True)
    copy.deepcopy(model)
    pickle.dumps(model)
    step(model, method, clock, by_kind(1.0, 0.5))
    assert not any(module._forward_pre_hooks for module in model.modules())
    pickle.dumps(method.forms.state_dict())


def test_finetuning_resumes_in_its_form(clock: Clock, slower: set[str]) -> None:
    model, method = training("always")
    for _ in range(3):
        step(model, method, clock, by_kind(1.0, 0.5))
    saved = copy.deepcopy((model.state_dict(), method.state_dict()))
    again, resumed = training("always")
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for one, own in ((model, method), (again, resumed)):
        step(one, own, clock, by_kind(1.0, 0.5))
    ours, theirs = again.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("accelerated", "message"),
    [
        ("sometimes", "acceleration cannot be 'sometimes': choose one of measure, always, never"),
        ([{"compressed": []}], "has an entry without a step"),
    ],
)
def test_what_is_no_choice_is_refused(accelerated: Any, message: str) -> None:
    with pytest.raises(gk.GemkernError, match=message):
        training(accelerated)


def test_the_record_of_another_model_leaves_training_dense() -> None:
    with pytest.warns(UserWarning, match="no layer 'elsewhere'"):
        model, _ = training([{"step": 0, "compressed": ["elsewhere"]}])
    assert compressed(model) == []


def test_ranks_decide_by_the_mean_of_their_times(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial.distributed, "get_world_size", lambda: 2)
    # The other rank measured 3 where this one did 1, and 0 where this one did 2.
    others = torch.tensor([3.0, 0.0])
    monkeypatch.setattr(trial.distributed, "all_reduce", lambda tensor: tensor.add_(others))
    found = trial.Trial({"dense": [], "sparse": ["layer"]}, left=1)
    for seconds in (1.0, 2.0):
        for _ in range(TURN):
            found.note(seconds)
    assert found.medians == {"sparse": 1.0, "dense": 2.0}
    assert found.is_over


class Reading(nn.Module):
    """A block that reads the weight of a layer, as the attention of torchvision's Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(F.linear(x, *weights(self.read)).relu())


def weights(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return what a layer holds; where it is read from cannot be seen in the block's forward."""
    return layer.weight, layer.bias


def test_a_layer_whose_weight_is_read_past_it_stays_dense(clock: Clock, slower: set[str]) -> None:
    model = Reading()
    gk.convert(model)
    method = WeightTraining(model, 1, accelerated=True)
    for _ in range(2 * TURN + 1):
        model(torch.randn(8, 6)).square().mean().backward()
        clock.now += 1.0 if not compressed(model) else 0.5
        method.step()
    assert compressed(model) == ["called"]
