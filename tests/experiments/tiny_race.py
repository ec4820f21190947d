"""Settings that find and finetune tickets of real images in a second, and races of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gemkern.data import Split
from gemkern.experiments.job import job, plan
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.records import EpochRecord, Phase, Run, Saving
from gemkern.experiments.settings import Settings
from gemkern.experiments.work import Work
from gemkern.tickets import Ticket

SETTINGS = Settings.of(
    {
        "data": "digits",
        "train_limit": 128,
        "model": "resnet8",
        "density": 0.3,
        "batch_size": 32,
        "mine_epochs": 3,
        "freeze_every": 1,
        "score_optimizer": "adam",
        "score_lr": 0.05,
        "l2": 1e-5,
        "finetune_epochs": 2,
        "finetune_lr": 0.1,
        "finetune_schedule": "cosine",
        "imp_epochs": 1,
        "imp_rewind": "init",
        "imp_prune": 0.5,
        "accelerate": "never",
    }
)


def settings(**changes: Any) -> Settings:
    return SETTINGS.changed(**changes)


@dataclass
class Race:
    """What a race returned and reported."""

    laboratory: Laboratory
    runs: list[Run] = field(default_factory=list)
    tickets: dict[tuple[str, int], Ticket] = field(default_factory=dict)
    records: list[EpochRecord] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)

    def run(self, method: str, seed: int) -> Run:
        (found,) = (run for run in self.runs if (run.method, run.seed) == (method, seed))
        return found

    def hold(self, methods: Sequence[str], seeds: Sequence[int] = (0,)) -> Race:
        for one in plan(self.laboratory.settings, methods, seeds):
            given = [self.tickets[one.needs, seed] for seed in one.seeds] if one.needs else []

            def keep(seed: int, ticket: Ticket, method: str = one.method) -> None:
                assert (method, seed) not in self.tickets
                self.tickets[method, seed] = ticket

            work = Work(one, self.laboratory, given, on_epoch=self.records.append, on_ticket=keep)
            self.runs += work.run()
            self.savings += [saving for course in work.courses for saving in course.savings]
        self.runs.sort(key=lambda run: (list(methods).index(run.method), run.seed))
        return self


def finetuned(laboratory: Laboratory, ticket: Ticket, seed: int) -> tuple[Run, Any]:
    """Return the run of a ticket that is finetuned alone, and its network."""
    phases: tuple[Phase, ...] = ("finetune",)
    work = Work(job(laboratory.settings, ticket.method, [seed], phases), laboratory, [ticket])
    (run,) = work.run()
    return run, work


def without_clock(measured: Run | EpochRecord) -> dict[str, object]:
    timed = ("seconds", "find_seconds", "finetune_seconds", "step_ms")
    fields = dataclasses.asdict(measured)
    return {name: value for name, value in fields.items() if name not in timed}


class Opened(Exception):
    """Somebody looked at a sealed split."""


class SealedSplit(Split):
    """A split at which nobody may look."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("images", "labels"):
            raise Opened(name)
        return super().__getattribute__(name)


def sealed(split: Split) -> Split:
    return SealedSplit(split.images, split.labels)


def kept_by_layer(ticket: Ticket) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in ticket.masks.items()}


def state(ticket: Ticket) -> dict[str, Tensor]:
    """Everything that a ticket with its own weights does to a model."""
    assert ticket.weights is not None
    masks = {f"mask of {layer}": mask for layer, mask in ticket.masks.items()}
    return {**masks, **ticket.weights}
