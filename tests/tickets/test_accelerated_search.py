"""Accelerated searches: the loop that people write, models that cannot be served, states."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_search import assert_same_state, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.training import forms

STEPS = 2


def batch(epoch: int, step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(10 * epoch + step)
    labels = torch.randint(5, (20,), generator=stream)
    images = torch.randn(20, 3, size, size, generator=stream)
    return images + labels.view(-1, 1, 1, 1) / 4, labels


def resnet(scores: bool) -> nn.Module:
    model = build("resnet8", seed=0, affine=True, init="kaiming_normal", image_size=8)
    gk.convert(model, scores=scores)
    return model


def miner(model: nn.Module, **options: Any) -> gk.GemMiner:
    settings = {"accelerated": "always", "seed": 1, "lr": 0.1} | options
    return gk.GemMiner(model, 0.02, 6, 1, **settings)


def imp(model: nn.Module, **options: Any) -> gk.IMP:
    return gk.IMP(model, 0.05, 2, **{"accelerated": "always", "prune": 0.7, "lr": 0.05} | options)


SEARCHES: dict[str, tuple[bool, Callable[..., Any]]] = {
    "gem-miner": (True, miner),
    "gem-miner by Adam": (True, lambda model, **o: miner(model, optimizer="adam", lr=0.05, **o)),
    "fused gem-miner": (True, lambda model, **o: miner(model, fused=True, **o)),
    "imp": (False, imp),
    "imp by learning rate": (False, lambda model, **o: imp(model, rewind="learning-rate", **o)),
}


def start(name: str, **options: Any) -> tuple[nn.Module, Any]:
    scores, make = SEARCHES[name]
    model = resnet(scores)
    return model, make(model, **options)


def is_compressed(model: nn.Module) -> bool:
    return any(layer.is_compressed for layer in masked_layers(model).values())


def assert_same_tickets(ours: gk.Ticket, theirs: gk.Ticket) -> None:
    assert_same_state(dict(ours.masks), dict(theirs.masks))
    assert_same_state(dict(ours.weights), dict(theirs.weights))


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("keeping", ["a loss", "all losses", "whole graphs"])
def test_losses_may_be_alive_at_a_freeze(name: str, keeping: str) -> None:
    tickets = []
    for keeps in (True, False):
        model, search = start(name)
        losses, was_compressed = [], False
        for epoch in range(search.epochs):
            for step in range(STEPS):
                x, labels = batch(epoch, step)
                loss = F.cross_entropy(model(x), labels)
                loss.backward(retain_graph=keeping == "whole graphs")
                search.step()
                was_compressed = was_compressed or is_compressed(model)
                if keeping != "a loss" and keeps:
                    losses.append(loss)
                if not keeps:
                    del loss
            search.end_epoch()
        assert was_compressed
        assert not is_compressed(model)
        tickets.append(search.ticket())
    assert_same_tickets(*tickets)


def run_epoch(model: nn.Module, search: Any, epoch: int, steps: range = range(STEPS)) -> None:
    for step in steps:
        x, labels = batch(epoch, step)
        dtype = next(model.parameters()).dtype
        F.cross_entropy(model(x.to(dtype)), labels).backward()
        search.step()
    search.end_epoch()


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("into", [0, 1])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_accelerated_search_resumes_to_the_same_bits(name: str, into: int, stop: int) -> None:
    model, search = start(name)
    for epoch in range(search.epochs):
        if epoch == stop:
            break
        run_epoch(model, search, epoch)
    for step in range(into):
        x, labels = batch(stop, step)
        F.cross_entropy(model(x), labels).backward()
        search.step()
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    again, resumed = start(name)
    # Once into a new search, once into one that has gone on.
    for _ in range(2):
        again.load_state_dict(saved[0])
        # Optimisers go on with the tensors that they load.
        resumed.load_state_dict(copy.deepcopy(saved[1]))
        assert is_compressed(again) == is_compressed_in(saved[1])
        finish(again, resumed, stop, into)
    finish(model, search, stop, into)
    assert_same_tickets(resumed.ticket(), search.ticket())
    assert_same_state(again.state_dict(), model.state_dict())


def is_compressed_in(state: dict[str, Any]) -> bool:
    return bool(state["forms"]["form"]["compressed"])


def finish(model: nn.Module, search: Any, stop: int, into: int) -> None:
    run_epoch(model, search, stop, range(into, STEPS))
    for epoch in range(stop + 1, search.epochs):
        run_epoch(model, search, epoch)


def test_a_state_wants_its_masks_first() -> None:
    model, search = start("gem-miner")
    for epoch in range(4):
        run_epoch(model, search, epoch)
    assert is_compressed(model)
    _, other = start("gem-miner")
    with pytest.raises(gk.GemkernError, match="load the model's state first"):
        other.load_state_dict(search.state_dict())


def test_a_state_means_the_same_in_either_form() -> None:
    """Momentum of compressed layers is saved whole, and loads where layers are dense."""
    model, search = start("gem-miner")
    for epoch in range(4):
        run_epoch(model, search, epoch)
    assert is_compressed(model)
    state = search.state_dict()
    gk.decelerate(model)
    layers = masked_layers(model).values()
    for layer, memory in zip(layers, state["optimizer"]["state"].values(), strict=True):
        assert memory["momentum_buffer"].shape == layer.whole_shape
        assert not memory["momentum_buffer"][~layer.active].any()


def warned(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in caught if "is not accelerated" in str(one.message)]


def run_all(model: nn.Module, search: Any) -> None:
    for epoch in range(search.epochs):
        run_epoch(model, search, epoch)
    search.ticket()


@pytest.mark.parametrize("name", ["gem-miner", "fused gem-miner", "imp"])
def test_a_model_in_float64_stays_dense_and_says_so_once(name: str) -> None:
    scores, make = SEARCHES[name]
    model = resnet(scores).double()
    (said,) = warned(lambda: run_all(model, make(model)))
    assert "its weight is torch.float64" in said


@pytest.mark.parametrize("name", ["gem-miner", "imp"])
def test_tied_layers_stay_dense(name: str) -> None:
    scores, make = SEARCHES[name]
    model = resnet(scores)
    first, second = model.stages[0][0].conv1, model.stages[0][0].conv2
    second.weight = first.weight
    search = make(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(search.epochs):
            run_epoch(model, search, epoch)
            assert not first.is_compressed
            assert not second.is_compressed


def test_a_search_that_never_becomes_sparse_says_nothing() -> None:
    model = resnet(scores=True)
    search = gk.GemMiner(model, 0.6, 4, 1, seed=1, accelerated=True)
    assert not warned(lambda: run_all(model, search))


def test_a_search_that_is_served_says_nothing() -> None:
    model, search = start("gem-miner")
    assert not warned(lambda: run_all(model, search))


ERRORS = pytest.mark.parametrize("error", [gk.GemkernError("no kernel"), RuntimeError("no memory")])


@pytest.mark.parametrize("name", ["gem-miner", "fused gem-miner", "imp"])
@ERRORS
def test_what_fails_at_first_leaves_the_search_dense(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets, lines = [], []
    for choice in ("always", "never"):
        with monkeypatch.context() as patch:
            patch.setattr(forms, "take_form", failing(error))
            search: Any = None

            def search_all() -> None:
                nonlocal search
                model, search = start(name, accelerated=choice)  # noqa: B023
                run_all(model, search)

            lines.append(warned(search_all))
        tickets.append(search.ticket())
    assert [len(said) for said in lines] == [1, 0]
    assert str(error) in lines[0][0]
    assert_same_tickets(*tickets)


@pytest.mark.parametrize("name", ["gem-miner", "fused gem-miner", "imp"])
@ERRORS
def test_what_fails_after_a_freeze_does_not_end_the_search(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, search = start(name)
    monkeypatch.setattr(forms, "take_form", failing(error))
    (said,) = warned(lambda: run_all(model, search))
    assert str(error) in said
    _, dense = start(name, accelerated="never")
    run_all(dense.model, dense)
    assert search.ticket().weights_left == dense.ticket().weights_left


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("name", ["gem-miner", "imp"])
def test_a_retry_freezes_nothing_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, search = start(name)
    monkeypatch.setattr(forms, "take_form", failing(KeyboardInterrupt()))
    interrupted = 0
    for epoch in range(search.epochs):
        try:
            run_epoch(model, search, epoch)
        except KeyboardInterrupt:
            interrupted += 1
            left = search.weights_left
            with pytest.raises(gk.GemkernError, match="had no step"):
                search.end_epoch()
            assert search.weights_left == left
        assert search.epoch == epoch + 1
    assert interrupted
    search.ticket()


def test_ties_that_would_take_everything_take_nothing() -> None:
    model = network()
    gk.convert(model, scores=True)
    search = gk.GemMiner(model, 0.5, 2, 1, ties="authors", lr=0.0, momentum=0.0)
    for layer in masked_layers(model).values():
        layer.scores.data.fill_(0.75)

    def train() -> None:
        for _ in range(2):
            model(torch.randn(4, 2, 4, 4)).sum().backward()
            search.step()
            search.end_epoch()

    with pytest.raises(gk.GemkernError, match="took them all"):
        train()
    assert search.weights_left == search.total


def test_a_rewind_step_that_never_came_is_refused_before_anything_changes() -> None:
    model = resnet(scores=False)
    search = gk.IMP(model, 0.5, 1, rewind=STEPS)
    x, labels = batch(0, 0)
    F.cross_entropy(model(x), labels).backward()
    search.step()
    for _ in range(2):
        with pytest.raises(gk.GemkernError, match="there is no rewinding to step"):
            search.end_epoch()
        assert search.epoch == 0


@pytest.mark.parametrize("name", ["gem-miner", "imp"])
def test_in_a_distributed_wrapper_a_search_stays_dense(alone: None, name: str) -> None:
    scores, make = SEARCHES[name]
    model = resnet(scores)
    wrapper = DistributedDataParallel(model)
    (said,) = warned(lambda: run_all(wrapper, make(wrapper)))
    assert "DistributedDataParallel has made buckets" in said


@pytest.mark.parametrize("name", ["gem-miner", "imp"])
def test_a_wrapped_accelerated_model_is_refused_before_the_search(alone: None, name: str) -> None:
    scores, make = SEARCHES[name]
    model = resnet(scores)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape) < 0.2)
    wrapper = DistributedDataParallel(gk.accelerate(model))
    with pytest.raises(gk.GemkernError, match="DistributedDataParallel has made buckets"):
        make(wrapper)
