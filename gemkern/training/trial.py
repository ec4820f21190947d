"""A comparison of a model's forms, on the steps of its own training."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import torch
from torch import distributed


@dataclass(frozen=True)
class Measuring:
    """How forms are compared.

    Attributes:
        warm_up: steps after a change of form that do not count: kernels are compiled, layers learn
            how their results are used.
        steps: steps that count, of a form in its turn.
        rounds: turns of each form where one does not make it clear.
        clear: a ratio of times that is no chance.
    """

    warm_up: int = 2
    steps: int = 3
    rounds: int = 2
    clear: float = 1.1


MEASURING = Measuring()


@dataclass
class Trial:
    """Forms that take turns, each for a few steps; what is clearly slower gets no second turn.

    Attributes:
        forms: the names of the layers that are compressed in each form, in the order of turns.
        left: how many weights are active.
        running: the forms that have turns.
        times: seconds of the steps that count.
        medians: seconds of a step in each form, the fastest first, after the last round of turns.
    """

    forms: dict[str, list[str]]
    left: int
    running: list[str] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    turns_ended: int = 0
    warmed_up: int = 0

    def __post_init__(self) -> None:
        self.running = self.running or list(self.forms)

    @property
    def turn(self) -> str:
        """The form of the next step."""
        return self.running[self.turns_ended]

    @property
    def is_over(self) -> bool:
        """Whether it is clear which form is the fastest, or all turns were had."""
        has_ended = self.turns_ended == 0 and self.warmed_up == 0
        return has_ended and (len(self.running) == 1 or self.rounds == MEASURING.rounds)

    def add(self, name: str, compressed: list[str]) -> None:
        """Let another form take its turns, before the first of them are over."""
        self.forms[name] = compressed
        self.running.append(name)

    def note(self, seconds: float | None) -> None:
        """Note a step, and its seconds if it was timed."""
        if self.warmed_up < MEASURING.warm_up:
            self.warmed_up += 1
            return
        times = self.times.setdefault(self.turn, [])
        if seconds is not None:
            times.append(seconds)
        if len(times) == MEASURING.steps * (self.rounds + 1):
            self.turns_ended, self.warmed_up = self.turns_ended + 1, 0
        if self.turns_ended == len(self.running):
            self._end_round()

    def _end_round(self) -> None:
        seconds = torch.tensor([median(times) for times in self.times.values()])
        if distributed.is_available() and distributed.is_initialized():
            # Ranks have to come to the same decision.
            distributed.all_reduce(seconds)
            seconds /= distributed.get_world_size()
        found = zip(self.times, seconds.tolist(), strict=True)
        self.medians = dict(sorted(found, key=lambda item: item[1]))
        best = min(self.medians.values())
        self.running = [
            name for name in self.running if self.medians[name] < MEASURING.clear * best
        ]
        self.rounds, self.turns_ended = self.rounds + 1, 0
