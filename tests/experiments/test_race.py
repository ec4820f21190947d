"""A race is fair: one number of weights, one recipe, and each method begins as its authors do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_race import (
    SETTINGS,
    Race,
    finetuned,
    kept_by_layer,
    sealed,
    settings,
    state,
    without_clock,
)

import gemkern as gk
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.tickets import GemMiner, Ticket, smart_ratio_counts, weights_left
from gemkern.tickets.randomness import RIVAL_SEED
from gemkern.training import train

METHODS = ("random", "dense", "smart-ratio", "imp", "gem-miner", "reinitialised", "shuffled")
TICKETED = tuple(method for method in METHODS if method != "dense")
SEEDS = (1, 0)


@pytest.fixture(scope="module")
def held() -> Race:
    return Race(Laboratory(settings())).hold(METHODS, SEEDS)


def assert_same_bits(one: Ticket, other: Ticket) -> None:
    ours, theirs = state(one), state(other)
    assert ours.keys() == theirs.keys()
    differing = [entry for entry in ours if not torch.equal(ours[entry], theirs[entry])]
    assert not differing


def test_runs_come_in_the_order_of_methods_then_seeds(held: Race) -> None:
    expected = [(method, seed) for method in METHODS for seed in sorted(SEEDS)]
    assert [(run.method, run.seed) for run in held.runs] == expected


def test_every_ticket_keeps_the_same_number_of_weights(held: Race) -> None:
    total = held.laboratory.maskable_weights
    matched = weights_left(total, 0.3, 3, 1)[-1]
    for method in TICKETED:
        for seed in SEEDS:
            run, ticket = held.run(method, seed), held.tickets[method, seed]
            assert run.weights_left == ticket.weights_left == matched, method
            assert run.density == matched / total, method
            assert run.layer_density == ticket.layer_density, method


def test_tickets_are_handed_out_once_for_each_method_that_has_one(held: Race) -> None:
    assert set(held.tickets) == {(method, seed) for method in TICKETED for seed in SEEDS}
    assert all(ticket.method == method for (method, _), ticket in held.tickets.items())


@pytest.mark.parametrize("method", ["random", "shuffled"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_rivals_have_the_layer_densities_of_the_mined_ticket_of_their_seed(
    held: Race, method: str, seed: int
) -> None:
    mined, rival = held.tickets["gem-miner", seed], held.tickets[method, seed]
    assert kept_by_layer(rival) == kept_by_layer(mined)
    other_seed = held.tickets["gem-miner", 1 - seed]
    assert kept_by_layer(mined) != kept_by_layer(other_seed), "the seeds can be told apart"
    drawn_alike = [torch.equal(rival.masks[layer], mined.masks[layer]) for layer in mined.masks]
    assert not any(drawn_alike)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reinitialised_ticket_has_the_mined_masks_over_other_weights(
    held: Race, seed: int
) -> None:
    mined, rival = held.tickets["gem-miner", seed], held.tickets["reinitialised", seed]
    assert all(torch.equal(rival.masks[layer], mined.masks[layer]) for layer in mined.masks)
    other = held.laboratory.fresh_model(RIVAL_SEED + seed).state_dict()
    assert rival.weights is not None
    assert all(torch.equal(rival.weights[entry], other[entry]) for entry in other)
    assert rival.checksum != mined.checksum


def test_the_smart_ratio_sets_its_own_layer_densities(held: Race) -> None:
    for seed in SEEDS:
        ticket = held.tickets["smart-ratio", seed]
        sizes = [mask.numel() for mask in ticket.masks.values()]
        density = ticket.weights_left / sum(sizes)
        assert list(kept_by_layer(ticket).values()) == smart_ratio_counts(sizes, density)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", ["gem-miner", "imp", "random", "shuffled", "smart-ratio"])
def test_tickets_start_from_the_very_weights_of_their_seed(
    held: Race, method: str, seed: int
) -> None:
    ticket, fresh = held.tickets[method, seed], held.laboratory.fresh_model(seed, method)
    assert (ticket.model, ticket.seed) == ("resnet8", seed)
    assert ticket.weights is not None
    for name, parameter in fresh.named_parameters():
        assert torch.equal(ticket.weights[name], parameter), name


@pytest.mark.parametrize("method", TICKETED)
def test_rivals_of_mined_tickets_start_from_normal_weights(held: Race, method: str) -> None:
    ticket = held.tickets[method, 0]
    assert ticket.weights is not None
    sizes = [len(ticket.weights[f"{layer}.weight"].abs().unique()) for layer in ticket.masks]
    if method in ("imp", "smart-ratio"):
        assert min(sizes) > 100
    else:
        assert set(sizes) == {1}


def test_one_start_for_all_is_one_checksum_for_all() -> None:
    normal = "kaiming_normal"
    held = Race(Laboratory(settings(mine_init=normal))).hold(("gem-miner", "imp"), (0,))
    mined, pruned = held.tickets["gem-miner", 0], held.tickets["imp", 0]
    assert mined.checksum == pruned.checksum


def test_imp_empties_no_layer_as_it_does_from_signed_constants() -> None:
    emptied = {}
    for init in ("signed_constant", SETTINGS.own["imp"].imp_init):
        held = Race(Laboratory(settings(density=0.1, imp_init=init))).hold(("imp",), (0,))
        densities = held.run("imp", 0).layer_density.values()
        emptied[init] = sum(density < 0.001 for density in densities)
    assert emptied == {"signed_constant": 3, "kaiming_normal": 0}


def test_imp_rewinds_statistics_too(held: Race) -> None:
    ticket, fresh = held.tickets["imp", 0], held.laboratory.fresh_model(0, "imp").state_dict()
    assert ticket.weights is not None
    assert ticket.weights.keys() == fresh.keys()
    assert all(torch.equal(ticket.weights[entry], fresh[entry]) for entry in fresh)


def test_a_seed_gives_the_same_race_to_the_bit(held: Race) -> None:
    again = Race(Laboratory(settings())).hold(METHODS, (0, 1))
    assert list(map(without_clock, again.runs)) == list(map(without_clock, held.runs))
    by_run = sorted(held.records, key=lambda record: record.seed)
    assert list(map(without_clock, again.records)) == list(map(without_clock, by_run))
    for method, seed in held.tickets:
        assert_same_bits(again.tickets[method, seed], held.tickets[method, seed])


def test_seeds_at_once_race_as_they_do_one_by_one(held: Race) -> None:
    seeds = (1, 0, 2)
    together = Race(Laboratory(settings(seeds_at_once=2))).hold(METHODS, seeds)
    third = Race(held.laboratory).hold(METHODS, (2,))
    alone = sorted([*held.runs, *third.runs], key=lambda run: (METHODS.index(run.method), run.seed))
    assert list(map(without_clock, together.runs)) == list(map(without_clock, alone))
    for method in TICKETED:
        for seed in seeds:
            ours, theirs = together.tickets[method, seed], {**held.tickets, **third.tickets}
            assert_same_bits(ours, theirs[method, seed])
    started = [(record.method, record.seed) for record in together.records if record.epoch == 1]
    pairs = [started[i : i + 2] for i in range(0, 2 * len(METHODS), 2)]
    assert all(pair == [(pair[0][0], 1), (pair[0][0], 0)] for pair in pairs), "a pair at a time"


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_is_another_race(held: Race, method: str) -> None:
    zero, one = (
        [record.loss for record in held.records if (record.method, record.seed) == (method, seed)]
        for seed in (0, 1)
    )
    assert all(a != b for a, b in zip(zero, one, strict=True))
    if method != "dense":
        tickets = [held.tickets[method, seed] for seed in (0, 1)]
        assert tickets[0].checksum != tickets[1].checksum
        masks, others = (ticket.masks for ticket in tickets)
        assert not all(torch.equal(masks[layer], others[layer]) for layer in masks)


def test_the_dense_network_is_trained_by_the_recipe_of_the_tickets(held: Race) -> None:
    run = held.run("dense", 0)
    assert (run.density, run.weights_left) == (1.0, held.laboratory.maskable_weights)
    assert (run.find_epochs, run.find_seconds, run.layer_density) == (0, 0.0, {})
    model = held.laboratory.fresh_model(0, "dense")
    assert len(model.conv.weight.abs().unique()) > 100, "Kaiming normal"
    assert run.accuracy_before == held.laboratory.test(model)
    method = held.laboratory.finetuning(model)
    train(model, method, held.laboratory.data, batch_size=SETTINGS.batch_size, seed=0)
    assert run.accuracy_after == held.laboratory.test(model)


def test_gem_miner_is_measured_as_mined_before_finetuning() -> None:
    held = Race(Laboratory(settings(density=0.9, batch_size=16))).hold(("gem-miner",), (0,))
    model = held.laboratory.fresh_model(0)
    gk.convert(model, scores=True)
    miner = GemMiner(model, 0.9, 3, 1, optimizer="adam", lr=0.05, l2=1e-5, seed=0)
    train(model, miner, held.laboratory.data, batch_size=16, seed=0)
    ready_to_finetune = held.laboratory.with_ticket(held.tickets["gem-miner", 0], 0)
    mined, unmined = map(held.laboratory.test, (model, ready_to_finetune))
    assert mined != unmined, "the mined network and the finetuned one's start can be told apart"
    assert held.run("gem-miner", 0).accuracy_before == mined


@pytest.mark.parametrize("method", TICKETED)
def test_a_run_is_the_finetuning_of_its_ticket(held: Race, method: str) -> None:
    ticket, run = held.tickets[method, 1], held.run(method, 1)
    model = held.laboratory.with_ticket(ticket, 1)
    if method != "gem-miner":
        assert run.accuracy_before == held.laboratory.test(model)
    tuning = held.laboratory.finetuning(model)
    train(model, tuning, held.laboratory.data, batch_size=SETTINGS.batch_size, seed=1)
    assert run.accuracy_after == held.laboratory.test(model)


def test_a_ticket_alone_is_finetuned_and_tested(held: Race) -> None:
    run, _ = finetuned(held.laboratory, held.tickets["imp", 0], 0)
    raced = held.run("imp", 0)
    assert run.accuracy_before == raced.accuracy_before
    assert (run.accuracy_after, run.finetune_epochs) == (raced.accuracy_after, 2)
    assert (run.find_epochs, run.find_seconds) == (0, 0.0)


def test_every_epoch_is_reported_and_foreseen(held: Race) -> None:
    foreseen = rehearse(held.laboratory, METHODS)
    for method in METHODS:
        found, tuned = (
            [
                record.epoch
                for record in held.records
                if (record.method, record.seed, record.phase) == (method, 0, phase)
            ]
            for phase in ("find", "finetune")
        )
        run = held.run(method, 0)
        assert foreseen[method] == len(found)
        assert found == list(range(1, run.find_epochs + 1))
        assert tuned == list(range(1, run.finetune_epochs + 1)) == [1, 2]
    assert held.run("imp", 0).find_epochs == 2, "0.5 and 0.3 of the weights"


def test_seconds_and_steps_of_a_run_are_those_of_its_epochs(held: Race) -> None:
    for run in held.runs:
        own = [r for r in held.records if (r.method, r.seed) == (run.method, run.seed)]
        assert run.find_seconds + run.finetune_seconds == pytest.approx(own[-1].seconds)
        assert (run.find_seconds > 0) is (run.method != "dense"), "drawing takes its time too"
        assert min(r.step_ms for r in own) <= run.step_ms <= max(r.step_ms for r in own)


def test_no_method_trains_on_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory(settings())
    laboratory.data = dataclasses.replace(laboratory.data, test=sealed(laboratory.data.test))
    monkeypatch.setattr(Laboratory, "test", lambda laboratory, model: 0.5)
    held = Race(laboratory).hold(METHODS)
    assert {run.accuracy_after for run in held.runs} == {0.5}
