"""Races whose steps are captured are the races that they would be without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recorded_graphs import RecordedGraphs
from tiny_race import Race, settings, state, without_clock

from gemkern.experiments.laboratory import Laboratory
from gemkern.tickets import Ticket
from gemkern.training import graphs, weights

METHODS = ("gem-miner", "imp", "dense")
Tickets = dict[tuple[str, int], Ticket]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    recorder = RecordedGraphs()
    monkeypatch.setattr(graphs, "graphs_on", lambda device: recorder)
    monkeypatch.setattr(weights, "on_cuda", lambda model: True)
    return recorder


def held(seeds: Sequence[int] = (0,), **changes: Any) -> tuple[list[dict[str, Any]], Tickets]:
    """Return the runs of a race without their clocks, and its tickets."""
    laboratory = Laboratory(settings(accelerate="never", imp_rewind="3", **changes))
    race = Race(laboratory).hold(METHODS, seeds)
    return list(map(without_clock, race.runs)), race.tickets


def assert_same(ours: tuple[Any, Tickets], theirs: tuple[Any, Tickets]) -> None:
    assert ours[0] == theirs[0]
    assert ours[1].keys() == theirs[1].keys()
    assert {method for method, _ in ours[1]} == {"gem-miner", "imp"}
    for name, ticket in ours[1].items():
        one, other = state(ticket), state(theirs[1][name])
        assert all(torch.equal(one[entry], other[entry]) for entry in one), name


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_a_captured_race_is_the_eager_race_to_the_bit(
    recorded: RecordedGraphs, autocast: str
) -> None:
    eager = held(graph=False, autocast=autocast)
    assert recorded.captures == 0
    assert_same(held(graph=True, autocast=autocast), eager)
    # Two searches and three finetunings: each is captured once, whatever freezes or rewinds.
    assert recorded.captures == 5


def test_seeds_are_captured_together(recorded: RecordedGraphs) -> None:
    eager = held((0, 1), graph=False)
    assert_same(held((0, 1), seeds_at_once=2), eager)
    assert (recorded.captures, recorded.widest) == (5, 2)


def test_autocast_reaches_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()
    model_type = type(Laboratory(settings()).fresh_model(0))
    forward = model_type.forward

    def watched(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = forward(self, x)
        seen.add((self.training, y.dtype))
        return y

    monkeypatch.setattr(model_type, "forward", watched)
    laboratory = Laboratory(settings(autocast="bfloat16"))
    Race(laboratory).hold(["gem-miner"])
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
