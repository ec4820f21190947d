"""Races whose steps are captured are the races that they would be without."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from recorded_graphs import RecordedGraphs
from tiny_race import settings, state

from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.race import race
from gemkern.experiments.search import mine
from gemkern.tickets import Ticket
from gemkern.training import graphs, weights

METHODS = ("gem-miner", "imp", "dense")
TIMED = ("seconds", "find_seconds", "finetune_seconds", "step_ms")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    recorder = RecordedGraphs()
    monkeypatch.setattr(graphs, "graphs_on", lambda device: recorder)
    monkeypatch.setattr(weights, "on_cuda", lambda model: True)
    return recorder


def held(**changes: Any) -> tuple[list[dict[str, Any]], dict[str, Ticket]]:
    """Return the runs of a race without their clocks, and its tickets."""
    tickets: dict[str, Ticket] = {}
    runs = race(
        Laboratory(settings(accelerate=False, imp_rewind="3", **changes)),
        METHODS,
        [0],
        on_ticket=lambda method, seed, ticket: tickets.update({method: ticket}),
    )
    measured = [dataclasses.asdict(run) for run in runs]
    return [{k: v for k, v in run.items() if k not in TIMED} for run in measured], tickets


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_a_captured_race_is_the_eager_race_to_the_bit(
    recorded: RecordedGraphs, autocast: str
) -> None:
    eager, eager_tickets = held(graph=False, autocast=autocast)
    assert recorded.captures == 0
    captured, tickets = held(graph=True, autocast=autocast)
    assert captured == eager
    assert tickets.keys() == eager_tickets.keys() == {"gem-miner", "imp"}
    for method, ticket in tickets.items():
        ours, theirs = state(ticket), state(eager_tickets[method])
        assert all(torch.equal(ours[entry], theirs[entry]) for entry in ours), method
    # Two searches and three finetunings: each is captured once, whatever freezes or rewinds.
    assert recorded.captures == 5


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
    mine(laboratory, Notebook("gem-miner", 0, lambda record: None))
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
