"""A search walked through all its densities, a few steps at each, on real data."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from benchmarks.schedule.authors import Batch, Step
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.settings import Settings
from gemkern.tickets import METHODS, Search
from gemkern.tickets.schedules import freeze_epochs

# Steps at a density that are not counted: forms are tried, caches fill.
PART_OF_TRIALS = 0.6


@dataclass(frozen=True)
class Visit:
    """What steps took at one density: their median and quartiles, and the end of the epoch, in ms.

    Attributes:
        epochs: that the schedule spends at this density.
    """

    density: float
    epochs: int
    ms: float
    quartiles: tuple[float, float]
    end_ms: float = 0.0


def shortened(settings: Settings) -> tuple[Settings, dict[str, list[int]]]:
    """Return settings under which a search is short at each density, and the epochs that it has.

    The epochs are those of the whole search, by method, at one density after another. A period of
    Gem-Miner, from freeze to freeze, has two epochs then, a round of IMP one.
    """
    mining, imp = settings.own["gem-miner"], settings.own["imp"]
    periods, rest = divmod(mining.mine_epochs, mining.freeze_every)
    assert not rest, "a whole number of periods"
    plan = freeze_epochs(mining.mine_epochs, mining.freeze_every, mining.mine_rule)
    ends = [epoch + 1 for epoch in plan] + [mining.mine_epochs]
    spent = [last - first for first, last in itertools.pairwise([0, *ends])]
    changes = {"mine_epochs": 2 * periods, "freeze_every": 2, "imp_epochs": 1, "imp_rewind": "init"}
    return settings.changed(**changes), {"gem-miner": spent, "imp": [imp.imp_epochs]}


def walk(laboratory: Laboratory, method: str, choice: str, steps: int) -> Iterator[Visit | Search]:
    """Yield what steps took at each density of a search, and in the end the search."""
    made = METHODS[method].make(laboratory.start(method, 0, accelerated=lambda: choice))
    assert isinstance(made, Search)
    batches, step = laboratory.batches(seed=0), _step_of(made.model, made)
    while made.epoch < made.epochs:
        density, times, end_ms = made.density, [], 0.0
        while made.epoch < made.epochs and made.density == density:
            times += _times(step, batches, steps)
            started = time.perf_counter()
            made.end_epoch()
            end_ms = 1e3 * (time.perf_counter() - started)
        yield Visit(density, 1, *_summary(times), end_ms)
    yield made


def in_full(visits: Sequence[Visit], epochs: Sequence[int]) -> list[Visit]:
    """Return the visits with the epochs of the whole search; one number of epochs is for all."""
    counts = list(epochs) * (len(visits) if len(epochs) == 1 else 1)
    return [replace(visit, epochs=count) for visit, count in zip(visits, counts, strict=True)]


def finetune(laboratory: Laboratory, found: Search, choice: str, steps: int) -> Visit:
    """Return what steps of finetuning the ticket of a search take."""
    ticket = found.ticket()
    model = laboratory.with_ticket(ticket, 0)
    training = laboratory.finetuning(model, choice)
    times = _times(_step_of(model, training), laboratory.batches(seed=0), steps)
    return Visit(ticket.density, laboratory.settings.finetune_epochs, *_summary(times))


def plain(laboratory: Laboratory, step: Step, steps: int) -> dict[str, Any]:
    """Return what steps take that are given as a function of a batch: fields of a `Visit`."""
    ms, quartiles = _summary(_times(step, laboratory.batches(seed=0), steps))
    return {"ms": ms, "quartiles": quartiles}


def _step_of(model: nn.Module, method: Any) -> Step:
    def step(batch: Batch) -> None:
        images, labels = batch
        method.loss(model(images), labels, images).backward()
        method.step()

    model.train()
    return step


def _times(step: Step, batches: Iterator[Batch], steps: int) -> list[float]:
    times = []
    for batch in itertools.islice(batches, steps):
        started = time.perf_counter()
        step(batch)
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _summary(times: list[float]) -> tuple[float, tuple[float, float]]:
    settled = times[int(PART_OF_TRIALS * len(times)) :]
    first, median, third = statistics.quantiles(settled, n=4)
    return median, (first, third)
