"""Methods that prune at initialisation by a saliency are methods of a race like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_race import Race, settings, state, without_clock

from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, rehearse

METHODS = ("snip", "grasp", "synflow", "prospr")
SEEDS = (0, 1)
# Few enough rounds for a test.
QUICK = {"density": 0.1, "synflow_rounds": 5, "finetune_epochs": 1}


@pytest.fixture(scope="module")
def held() -> Race:
    return Race(Laboratory(settings(**QUICK))).hold(METHODS, SEEDS)


def kept(race: Race, method: str, seed: int) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in race.tickets[method, seed].masks.values()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_tickets_keep_as_many_of_their_seeds_weights_as_all_others(
    held: Race, method: str, seed: int
) -> None:
    laboratory, ticket = held.laboratory, held.tickets[method, seed]
    assert ticket.weights_left == laboratory.matched_weights
    assert held.run(method, seed).weights_left == laboratory.matched_weights
    fresh = laboratory.fresh_model(seed, method).state_dict()
    assert (ticket.method, ticket.model, ticket.seed) == (method, "resnet8", seed)
    assert ticket.weights is not None
    assert ticket.weights.keys() == fresh.keys()
    assert all(torch.equal(ticket.weights[entry], fresh[entry]) for entry in fresh)


@pytest.mark.parametrize("method", METHODS)
def test_they_begin_from_normal_weights_and_take_their_time(held: Race, method: str) -> None:
    run = held.run(method, 0)
    assert run.find_epochs == 0
    assert run.find_seconds > 0
    ticket = held.tickets[method, 0]
    assert ticket.weights is not None
    assert len(ticket.weights["conv.weight"].abs().unique()) > 100


def test_every_method_and_every_seed_has_its_own_ticket(held: Race) -> None:
    masks = [kept(held, method, seed) for method in METHODS for seed in SEEDS]
    pairs = [(a, b) for a in range(len(masks)) for b in range(a)]
    assert not any(torch.equal(masks[a], masks[b]) for a, b in pairs)


def test_a_seed_gives_the_same_bits_whatever_trains_beside_it(held: Race) -> None:
    together = Race(Laboratory(settings(**QUICK, seeds_at_once=2))).hold(METHODS, SEEDS)
    assert list(map(without_clock, together.runs)) == list(map(without_clock, held.runs))
    for method, seed in held.tickets:
        ours, theirs = state(together.tickets[method, seed]), state(held.tickets[method, seed])
        assert all(torch.equal(ours[entry], theirs[entry]) for entry in theirs)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("snip", {"snip_batches": 3}),
        ("grasp", {"grasp_samples": 3}),
        ("grasp", {"grasp_temperature": 0.5}),
        ("synflow", {"synflow_rounds": 1}),
        ("prospr", {"prospr_steps": 1}),
        ("prospr", {"prospr_lr": 0.5}),
        ("prospr", {"prospr_momentum": 0.9}),
        ("prospr", {"prospr_init": "signed_constant"}),
    ],
)
def test_settings_of_their_own_are_read(held: Race, method: str, own: dict[str, Any]) -> None:
    laboratory = Laboratory(settings(**{**QUICK, **own}))
    other = Race(laboratory).hold((method,), (0,))
    assert not torch.equal(kept(other, method, 0), kept(held, method, 0))


def test_a_rehearsal_refuses_bad_settings_and_looks_at_no_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unread(laboratory: Laboratory, *which: Any) -> Iterator[Any]:
        yield pytest.fail("a batch was read")

    monkeypatch.setattr(Laboratory, "batches", unread)
    assert rehearse(Laboratory(settings(**QUICK)), METHODS) == dict.fromkeys(METHODS, 0)
    with pytest.raises(GemkernError, match="snip_batches is 0: give at least 1"):
        rehearse(Laboratory(settings(snip_batches=0)), METHODS)
