"""What all searches that learn scores over fixed weights owe: resuming, copies, ranks, graphs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks_apart import on_every_rank
from recorded_graphs import RecordedGraphs
from tiny_search import (
    STEPS,
    TOTAL,
    assert_same_state,
    batches,
    count,
    network,
    same_bits,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.data import Augment, Dataset, Split
from gemkern.errors import GemkernError
from gemkern.experiments.job import job
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.settings import Settings
from gemkern.experiments.work import Work
from gemkern.nn import is_accelerated
from gemkern.optim import masked_layers
from gemkern.tickets import METHODS, ConcreteTicketSearch, EdgePopup, Search, score_search
from gemkern.training import graphs, train
from gemkern.training.graphs import WARM_UPS

DENSITIES = [0.1, 0.0144]
Maker = Callable[..., Any]


def layerwise(model: nn.Module, density: float = 0.1, **options: Any) -> EdgePopup:
    return EdgePopup(model, density, 4, **{"seed": 1, "model_seed": 1, **options})


def gradual(model: nn.Module, density: float = 0.1, **options: Any) -> EdgePopup:
    chosen = {"scope": "global", "freeze_every": 1, "l2": 1e-3, **options}
    return layerwise(model, density, **chosen)


def sampled(model: nn.Module, density: float = 0.1, **options: Any) -> ConcreteTicketSearch:
    return ConcreteTicketSearch(model, density, 4, **{"seed": 1, "model_seed": 1, **options})


MAKERS: dict[str, Maker] = {
    "edge-popup": layerwise,
    "global-edge-popup": gradual,
    "cts": sampled,
}
EVERY = pytest.mark.parametrize("name", MAKERS)


def start(name: str, density: float = 0.1, /, **options: Any) -> tuple[nn.Module, Any]:
    model = network()
    gk.convert(model, scores=True)
    return model, MAKERS[name](model, density, **options)


def take(model: nn.Module, search: Search, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    search.loss(model(images), labels, images).backward()
    search.step()


def take_epoch(model: nn.Module, search: Search, epoch: int, first: int = 0) -> None:
    for batch in list(batches(epoch))[first:]:
        take(model, search, batch)
    search.end_epoch()


def take_all(model: nn.Module, search: Search) -> None:
    for epoch in range(search.epoch, search.epochs):
        take_epoch(model, search, epoch)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("steps", range(STEPS + 1))
@EVERY
def test_it_resumes_to_the_same_bits(name: str, steps: int, density: float) -> None:
    model, search = start(name, density)
    for epoch in range(2):
        take_epoch(model, search, epoch)
    for batch in list(batches(2))[:steps]:
        take(model, search, batch)
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    take_epoch(model, search, 2, steps)
    take_epoch(model, search, 3)
    again, resumed = start(name, density)
    # Once into a new search, once into one that has come to its end.
    for _ in range(2):
        again.load_state_dict(saved[0])
        resumed.load_state_dict(copy.deepcopy(saved[1]))
        assert resumed.epoch == 2
        take_epoch(again, resumed, 2, steps)
        take_epoch(again, resumed, 3)
        assert_same_state(again.state_dict(), model.state_dict())
        assert_same_state(dict(resumed.ticket().masks), dict(search.ticket().masks))


@EVERY
def test_a_search_that_was_over_is_over_when_it_is_loaded(name: str) -> None:
    model, search = start(name)
    take_all(model, search)
    again, resumed = start(name)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(search.state_dict())
    assert_same_state(dict(resumed.ticket().masks), dict(search.ticket().masks))
    assert same_bits(again.eval()(next(batches(9))[0]), model.eval()(next(batches(9))[0]))
    with pytest.raises(GemkernError, match="the search is over"):
        resumed.step()


@pytest.mark.parametrize("density", DENSITIES)
@EVERY
def test_at_the_end_model_and_copies_compute_with_the_mask_of_the_ticket(
    name: str, density: float
) -> None:
    model, search = start(name, density)
    for epoch in range(search.epochs - 1):
        take_epoch(model, search, epoch)
    layers = masked_layers(model).values()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(layer.override is not None for layer in layers)
        assert all(layer.override is None for layer in masked_layers(copied).values())
    take_epoch(model, search, search.epochs - 1)
    ticket = search.ticket()
    assert ticket.weights_left == search.weights_left == count(search.masks())
    assert search.density == ticket.density
    plain = network().eval()
    plain.load_state_dict(ticket.weights)
    for layer, mask in ticket.masks.items():
        plain.get_submodule(layer).weight.data[~mask] = 0
    images, _ = next(batches(9))
    baked = copy.deepcopy(model)
    gk.unconvert(baked)
    for one in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), baked):
        assert all(getattr(layer, "override", None) is None for layer in one.modules())
        torch.testing.assert_close(one.eval()(images), plain(images))


@EVERY
def test_weights_are_the_initial_ones_and_statistics_those_of_the_search(name: str) -> None:
    model, search = start(name, name="tiny")
    take_all(model, search)
    ticket, initial = search.ticket(), network().state_dict()
    assert (ticket.method, ticket.model, ticket.seed) == (name, "tiny", 1)
    assert list(ticket.weights) == list(initial)
    for entry in ("0.weight", "1.weight", "1.bias", "4.weight", "4.bias"):
        assert same_bits(ticket.weights[entry], initial[entry])
    assert same_bits(ticket.weights["1.running_mean"], model[1].running_mean)
    assert not same_bits(ticket.weights["1.running_mean"], initial["1.running_mean"])
    assert all(parameter.grad is None for parameter in model.parameters())


@EVERY
def test_one_seed_one_ticket(name: str) -> None:
    found = []
    for seed in (1, 1, 2):
        model, search = start(name, seed=seed)
        take_all(model, search)
        found.append(torch.cat([mask.flatten() for mask in search.ticket().masks.values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@EVERY
def test_what_cannot_be_is_refused(name: str) -> None:
    make = MAKERS[name]
    model, search = start(name)
    with pytest.raises(GemkernError, match="has no gradient to learn from"):
        search.step()
    for layer in masked_layers(model).values():
        layer.scores.data.fill_(torch.nan)
    search._steps_of_epoch = 1
    with pytest.raises(GemkernError, match="layer '0' has a score that is NaN at the end of epoch"):
        search.end_epoch()
    plain = network()
    gk.convert(plain)
    with pytest.raises(GemkernError, match="layer '0' has no scores to learn"):
        make(plain)
    masked = network()
    gk.convert(masked, scores=True)
    masked[4].active[0, 0] = False
    with pytest.raises(GemkernError, match=f"263 of the {TOTAL} weights are active and {name}"):
        make(masked)
    for options, message in (
        ({"density": 1.0}, "density 1 is not a fraction"),
        ({"lr": -1.0}, "the optimiser's lr is -1.0"),
        ({"schedule": "no"}, "no schedule is called 'no'"),
        ({"seed": 0.5}, "the seed is 0.5"),
    ):
        fresh = network()
        gk.convert(fresh, scores=True)
        with pytest.raises(GemkernError, match=message):
            make(fresh, **options)
        assert all(layer.override is None for layer in masked_layers(fresh).values())


@EVERY
def test_no_layer_runs_sparse(name: str) -> None:
    model, search = start(name)
    take_all(model, search)
    assert search.forms.never
    assert not is_accelerated(model)


def stripes() -> Dataset:
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.randint(0, 200, (96, 2, 4, 4), dtype=torch.uint8, generator=stream)
    split = Split(images, labels)
    return Dataset(
        "stripes", 3, split, split, split, mean=(0.4,), std=(0.3,), augment=Augment(0, flip=True)
    )


@EVERY
def test_captured_once_it_learns_to_the_bits_of_eager_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordedGraphs()
    monkeypatch.setattr(graphs, "graphs_on", lambda device: recorded)
    monkeypatch.setattr(score_search, "on_cuda", lambda model: True)
    states, losses = [], []
    for graph in (False, True):
        model, search = start(name)
        heard: list[float] = []
        train(
            model,
            search,
            stripes(),
            batch_size=16,
            seed=0,
            graph=graph,
            on_epoch=lambda stats: heard.append(stats.loss),  # noqa: B023
        )
        states.append(model.state_dict())
        losses.append(heard)
    assert (recorded.captures, recorded.replays) == (1, 4 * 6 - WARM_UPS)
    assert losses[0] == losses[1]
    assert_same_state(*states)


def search_on_one_rank(rank: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name in MAKERS:
        for when in ("before wrapping", "after wrapping"):
            model = network(seed=rank)
            gk.convert(model, scores=True)
            own = {"seed": rank, "model_seed": rank}
            if when == "before wrapping":
                search = MAKERS[name](model, **own)
                parallel = DistributedDataParallel(model)
            else:
                parallel = DistributedDataParallel(model)
                search = MAKERS[name](parallel, **own)
            masks = [search.masks()] if when == "after wrapping" else []
            noise = [one.clone() for one in getattr(search, "_noise", [])]
            for epoch in range(search.epochs):
                for images, labels in batches(2 * epoch + rank):
                    search.loss(parallel(images), labels, images).backward()
                    search.step()
                    masks.append(search.masks())
                search.end_epoch()
            found[name, when] = (
                masks,
                search.ticket().checksum,
                search.ticket().seed,
                search.state_dict().get("seed", 0),
                noise if when == "after wrapping" else [],
            )
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    return on_every_rank(search_on_one_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("when", ["before wrapping", "after wrapping"])
@EVERY
def test_ranks_have_the_same_masks_after_every_step(
    ranks: list[dict[Any, Any]], name: str, when: str
) -> None:
    (ours, *facts, noise), (theirs, *their_facts, their_noise) = (one[name, when] for one in ranks)
    assert facts == their_facts
    assert facts[1:] == [0, 0], "the seeds are those of the first rank"
    assert all(map(torch.equal, noise, their_noise))
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for layer, mask in one.items():
            assert torch.equal(mask, other[layer]), (step, layer)


SETTINGS = {
    "train_limit": 64,
    "model": "resnet8",
    "batch_size": 32,
    "density": 0.05,
    "mine_epochs": 3,
    "freeze_every": 1,
    "popup_epochs": 2,
    "global_popup_epochs": 2,
    "global_popup_freeze_every": 1,
    "cts_epochs": 2,
    "finetune_epochs": 1,
    "accelerate": "never",
    "device": "cpu",
}


@pytest.mark.filterwarnings("ignore:the ticket keeps no weight of")
@EVERY
def test_in_a_race_it_keeps_what_all_tickets_keep(name: str) -> None:
    at_once = Settings.of({**SETTINGS, "global_popup_freeze_every": 0})
    laboratory = Laboratory(Settings.of(SETTINGS))
    for one in (Laboratory(at_once), laboratory):
        assert rehearse(one, [name]) == {name: 2}
    work = Work(job(laboratory.settings, name, [0]), laboratory)
    (ran,) = work.run()
    ticket = work.courses[0].ticket
    assert ticket.method == name
    if name == "edge-popup":
        density = laboratory.matched_weights / laboratory.maskable_weights
        for mask in ticket.masks.values():
            assert mask.sum() == max(1, round(density * mask.numel()))
    else:
        assert ran.weights_left == laboratory.matched_weights
    assert [record.density for record in work.courses[0].of("find")][-1] == ticket.density


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"global_popup_freeze_every": 2}, "freezing every 2 epochs never happens in a search of"),
        ({"global_popup_freeze_every": -1}, "freezes every -1 cannot be planned"),
        ({"global_popup_l2": -1.0}, "the optimiser's l2 is -1.0"),
        ({"popup_epochs": 0}, "the number of epochs is 0: give at least 1"),
        ({"popup_momentum": 1.0}, "the optimiser's momentum is 1.0"),
        ({"popup_weight_decay": -1.0}, "the optimiser's weight_decay is -1.0"),
        ({"cts_temperature": 0.0}, "samples of temperature 0.0 have no gradient"),
    ],
)
def test_settings_are_refused_before_a_race(changed: dict[str, Any], message: str) -> None:
    (name,) = (
        name for name in MAKERS if set(changed) <= set(METHODS[name].settings.__dataclass_fields__)
    )
    with pytest.raises(GemkernError, match=message):
        rehearse(Laboratory(Settings.of({**SETTINGS, **changed})), [name])
