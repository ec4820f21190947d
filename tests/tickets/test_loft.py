"""Filter tickets: whole filters, dealt out, trained apart, and put together again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_search import assert_same_state
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.tickets.loft import LoFT, strongest_filters
from gemkern.training import WeightTraining

STEPS = 4


def converted() -> nn.Module:
    model = build("resnet8", classes=10, channels=1, image_size=8, affine=False, init=INIT, seed=0)
    gk.convert(model)
    return model


INIT = "kaiming_normal"


def batch(step: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(step)
    images = torch.randn(8, 1, 8, 8, generator=stream)
    return images, torch.randint(10, (8,), generator=stream)


def loft_of(model: nn.Module, count: int = 8000, epochs: int = 2, **options: Any) -> LoFT:
    chosen = {"workers": 2, "local_steps": 3, "seed": 5, "lr": 0.05}
    return LoFT(model, count, epochs, **{**chosen, **options})


def step(model: nn.Module, search: Any, number: int) -> None:
    images, labels = batch(number)
    F.cross_entropy(model(images), labels).backward()
    search.step()


def run(model: nn.Module, search: LoFT) -> None:
    for epoch in range(search.epochs):
        for number in range(STEPS):
            step(model, search, STEPS * epoch + number)
        search.end_epoch()


def total(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in masked_layers(model).values())


@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_filters_are_whole_and_no_more_than_may_be_kept(density: float) -> None:
    model = converted()
    count = round(density * total(model))
    search = loft_of(model, count)
    run(model, search)
    ticket = search.ticket()
    *convolutions, last = ticket.masks.values()
    assert last.all(), "the classes"
    for mask in convolutions:
        rows = mask.flatten(1)
        assert torch.equal(rows.all(1), rows.any(1)), "all of a filter or nothing"
    smallest = min(mask[0].numel() for mask in convolutions if not mask.flatten(1).all(1).all())
    assert count - smallest < ticket.weights_left <= count
    for name, layer in masked_layers(model).items():
        assert not layer.weight.detach()[~ticket.masks[name]].any()


def test_the_strongest_filter_of_each_layer_comes_first_then_the_strongest_of_all() -> None:
    weights = [
        torch.tensor([[5.0, 5.0], [4.0, -4.0], [1.0, 1.0]]),
        torch.tensor([[0.1, 0.1, 0.1], [-0.2, 0.2, 0.2]]),
        torch.ones(2, 2),
    ]
    kept = [
        [mask.flatten(1).all(1).tolist() for mask in strongest_filters(weights, count)]
        for count in (4, 6, 9, 10, 11, 13, 16)
    ]
    none, all_ = [False, False], [True, True]
    assert kept == [
        [[False, False, False], none, all_],
        [[True, False, False], none, all_],
        [[True, False, False], [False, True], all_],
        [[True, False, False], [False, True], all_],
        [[True, True, False], [False, True], all_],
        [[True, True, True], [False, True], all_],
        [[True, True, True], all_, all_],
    ]


def test_a_worker_trains_its_filters_and_no_others() -> None:
    model = converted()
    search = loft_of(model, weight_decay=0.0)
    owners = {name: owner.clone() for name, owner in search._owners.items()}
    before = {name: layer.weight.detach().clone() for name, layer in masked_layers(model).items()}
    for number in range(2):
        step(model, search, number)
    moved = {
        name: (layer.weight.detach() != before[name]).flatten(1).any(1)
        for name, layer in masked_layers(model).items()
    }
    for name, owner in owners.items():
        assert owner.bincount().tolist() == [len(owner) // 2] * 2
        assert not moved[name][owner != 0].any()
    assert any(moved[name].any() for name in owners)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_begin_where_the_round_did_and_are_put_together(workers: int) -> None:
    model = converted()
    search = loft_of(model, epochs=9, schedule="constant", workers=workers)
    owners = {name: owner.clone() for name, owner in search._owners.items()}
    ends = []
    for worker in range(workers):
        alone = converted()
        twin = WeightTraining(alone, 9, lr=0.05, schedule="constant")
        for name, layer in list(masked_layers(alone).items())[:-1]:
            mine = (owners[name] == worker).view(-1, 1, 1, 1)
            layer.override = lambda layer, dtype, mine=mine: layer.weight * mine
        for number in range(3):
            step(alone, twin, 3 * worker + number)
        ends.append(alone.state_dict())
    for number in range(3 * workers):
        step(model, search, number)
    for entry, value in model.state_dict().items():
        name = entry.removesuffix(".weight")
        if name in owners and entry.endswith("weight"):
            expected = torch.zeros_like(value)
            for worker, end in enumerate(ends):
                mine = (owners[name] == worker).view(-1, 1, 1, 1)
                expected += end[entry] * mine
        elif value.is_floating_point():
            expected = torch.stack([end[entry] for end in ends]).mean(0)
        else:
            continue
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=entry)
    again = {name: owner for name, owner in search._owners.items()}
    assert any(not torch.equal(again[name], owners[name]) for name in owners), "dealt out anew"


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6])
def test_it_goes_on_to_the_same_bits(stop: int) -> None:
    whole = converted()
    search = loft_of(whole, epochs=2)
    for number in range(stop):
        step(whole, search, number)
        if number % STEPS == STEPS - 1:
            search.end_epoch()
    kept = copy.deepcopy((dict(whole.state_dict()), search.state_dict()))
    again = converted()
    other = loft_of(again, epochs=2)
    again.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    for model, one in ((whole, search), (again, other)):
        for number in range(stop, 2 * STEPS):
            step(model, one, number)
            if number % STEPS == STEPS - 1:
                one.end_epoch()
    assert_same_state(whole.state_dict(), again.state_dict())
    assert search.ticket().checksum == other.ticket().checksum


def test_nobody_else_computes_with_the_filters_of_a_worker() -> None:
    model = converted()
    search = loft_of(model)
    layers = masked_layers(copy.deepcopy(model)).values()
    assert all(layer.override is None for layer in layers)
    with pytest.raises(GemkernError, match="computes with weights that a search makes"):
        next(iter(masked_layers(model).values())).compress()
    run(model, search)
    assert all(layer.override is None for layer in masked_layers(model).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 100}, "the last layer has 640 weights"),
        ({"workers": 0}, "train nothing"),
        ({"local_steps": 0}, "train nothing"),
    ],
)
def test_plans_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        loft_of(converted(), **options)
