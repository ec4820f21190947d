"""A job at work: it finds tickets, finetunes them, and can be left and gone on with at any step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gemkern.data.batches import WHOLE, Share
from gemkern.experiments.job import Job
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.records import EpochRecord, Phase, Run, Saving, as_record
from gemkern.tickets import METHODS, Search, Ticket
from gemkern.training import EpochStats, Trainee, Training
from gemkern.training.forms import NEVER
from gemkern.training.randomness import own_random_numbers


@dataclass
class Course:
    """What one seed of a job has come to so far.

    Attributes:
        records: one an epoch, of both phases.
        ticket: what was found; None before, and where the network is trained as it is.
        accuracy: on the test set, before finetuning.
        drawn_seconds: what it took to draw the ticket at once.
    """

    seed: int
    records: list[EpochRecord] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)
    ticket: Ticket | None = None
    accuracy: float = math.nan
    drawn_seconds: float = 0.0

    def of(self, phase: Phase) -> list[EpochRecord]:
        """Return the records of `phase`."""
        return [record for record in self.records if record.phase == phase]

    def seconds(self, phase: Phase) -> float:
        """Return the seconds that `phase` took; those of evaluations do not count."""
        ends = [record.seconds for record in self.of(phase)]
        if phase == "find":
            return ends[-1] if ends else self.drawn_seconds
        return ends[-1] - self.seconds("find") if ends else 0.0

    def step_ms(self) -> float:
        """Return the median over epochs of the mean step, of the search if there was one."""
        return statistics.median(r.step_ms for r in self.of("find") or self.of("finetune"))


class Work:
    """A job, at work in a laboratory.

    `run` does what is left of it. `state_dict` is all that it takes to go on to the same bits, on
    this machine or another: the models, what learns with them, the place in the epoch, the random
    numbers to come, and what was measured.

    Args:
        given: the ticket of each seed, where the job needs one or finetunes one.
        on_epoch: hears of each epoch.
        on_ticket: is handed each ticket, with its seed, when it is found.
        share: which part of each batch is trained on here.
        wrap: what the forward pass goes through while a model trains.
        clock: returns the seconds by which training is timed.
    """

    def __init__(
        self,
        job: Job,
        laboratory: Laboratory,
        given: Sequence[Ticket] = (),
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        on_ticket: Callable[[int, Ticket], None] = lambda seed, ticket: None,
        share: Share = WHOLE,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.job, self.laboratory, self._clock = job, laboratory, clock
        self._given, self._share, self._wrap = given, share, wrap
        self._on_epoch, self._on_ticket = on_epoch, on_ticket
        self.courses = [Course(seed) for seed in job.seeds]
        self.phase: Phase | None = None
        self._models: list[nn.Module] = []
        self._methods: list[Any] = []
        self._training: Training | None = None

    @property
    def model(self) -> nn.Module:
        """The network of the first seed, as it is by now."""
        return self._models[0]

    def run(
        self,
        is_due: Callable[[], bool] = lambda: False,
        keep: Callable[[], None] = lambda: None,
    ) -> list[Run]:
        """Do what is left of the job; return a run for each seed, none where nothing is finetuned.

        `is_due` and `keep` are those of `Training.run`; `keep` is called between phases too.
        """
        device = torch.device(self.laboratory.settings.device)
        with own_random_numbers(self.job.seeds[0], device):
            if self.phase is None:
                self._begin()
            if self.phase == "find":
                self._train(is_due, keep)
                self._end_search()
                if self.phase is not None:
                    keep()
            if self.phase == "finetune":
                self._train(is_due, keep)
            return self._runs() if "finetune" in self.job.phases else []

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on to the same bits."""
        return {
            "phase": self.phase,
            "courses": [_course_state(course) for course in self.courses],
            "models": [dict(model.state_dict()) for model in self._models],
            "methods": [method.state_dict() for method in self._methods],
            "training": None if self._training is None else self._training.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which a job of the same hash returned; before `run`."""
        self.courses = [_course(one) for one in state["courses"]]
        self.phase = state["phase"]
        if self.phase == "find":
            self._prepare_search()
        elif self.phase == "finetune":
            self._prepare_finetuning()
        for model, entries in zip(self._models, state["models"], strict=True):
            # Updated, it keeps what modules wrote beside: the version of their state.
            own = model.state_dict()
            own.update(entries)
            model.load_state_dict(own)
        for method, entries in zip(self._methods, state["methods"], strict=True):
            method.load_state_dict(entries)
        if self._training is not None and state["training"] is not None:
            self._training.load_state_dict(state["training"])

    def records(self) -> list[EpochRecord]:
        """Return the records of all seeds, in the order in which they were made."""
        every = [record for course in self.courses for record in course.records]
        return sorted(every, key=lambda record: (record.phase != "find", record.epoch))

    def pause(self) -> None:
        """Let the time until the end of the next step not count where steps are timed."""
        for method in self._methods:
            method.forms.pause()

    def _begin(self) -> None:
        """Make what the first phase trains; what is drawn at once is there."""
        if "find" not in self.job.phases:
            for course, ticket in zip(self.courses, self._given, strict=True):
                course.ticket = ticket
            self._prepare_finetuning()
            return
        self._prepare_search()
        if self.phase != "find":
            self._prepare_finetuning()

    def _prepare_search(self) -> None:
        """Make the searches, or draw the tickets."""
        made = [
            METHODS[self.job.method].make(
                self.laboratory.start(
                    self.job.method,
                    seed,
                    self._given[i] if self._given else None,
                    partial(self.laboratory.accelerated, self.job.method, seed, "find"),
                )
            )
            for i, seed in enumerate(self.job.seeds)
        ]
        searches = [one for one in made if isinstance(one, Search)]
        if searches:
            self.phase = "find"
            self._methods = searches
            self._models = [search.model for search in searches]
            self._training = self._new_training()
            return
        for course, one in zip(self.courses, made, strict=True):
            if not isinstance(one, (Search, nn.Module)):
                started = self._clock()
                ticket = one()
                course.drawn_seconds = self._clock() - started
                self._take(course, ticket)

    def _end_search(self) -> None:
        self._note_savings()
        for course, search in zip(self.courses, self._methods, strict=True):
            self._take(course, search.ticket())
            course.accuracy = self.laboratory.test(search.model)
        self.phase, self._models, self._methods, self._training = None, [], [], None
        if "finetune" in self.job.phases:
            self._prepare_finetuning()

    def _take(self, course: Course, ticket: Ticket) -> None:
        # One class may be several methods of the table.
        course.ticket = replace(ticket, method=self.job.method)
        self._on_ticket(course.seed, course.ticket)

    def _prepare_finetuning(self) -> None:
        self.phase = "finetune"
        self._models = [self._ready(course) for course in self.courses]
        for course, model in zip(self.courses, self._models, strict=True):
            if math.isnan(course.accuracy):
                course.accuracy = self.laboratory.test(model)
        self._methods = [
            self.laboratory.finetuning(
                model, self.laboratory.accelerated(self.job.method, course.seed, "finetune")
            )
            for model, course in zip(self._models, self.courses, strict=True)
        ]
        self._training = self._new_training()

    def _ready(self, course: Course) -> nn.Module:
        if course.ticket is None:
            return self.laboratory.fresh_model(course.seed, self.job.method)
        return self.laboratory.with_ticket(course.ticket, course.seed)

    def _new_training(self) -> Training:
        settings = self.laboratory.settings
        trainees = [
            Trainee(self._wrap(model), method, course.seed, partial(self._write, i))
            for i, (model, method, course) in enumerate(
                zip(self._models, self._methods, self.courses, strict=True)
            )
        ]
        return Training(
            trainees,
            self.laboratory.data,
            batch_size=settings.batch_size_of(self.job.method),
            autocast=self.laboratory.autocast,
            graph=settings.graph,
            share=self._share,
            clock=self._clock,
        )

    def _train(self, is_due: Callable[[], bool], keep: Callable[[], None]) -> None:
        assert self._training is not None
        self._training.run(is_due, keep)
        if self.phase == "finetune":
            self._note_savings()

    def _write(self, i: int, stats: EpochStats) -> None:
        """Write an epoch down; its seconds go on from the last one's."""
        assert self.phase is not None
        course, method = self.courses[i], self._methods[i]
        before = course.records[-1].seconds if course.records else course.drawn_seconds
        record = EpochRecord(
            method=self.job.method,
            seed=course.seed,
            phase=self.phase,
            epoch=stats.epoch,
            density=method.density if isinstance(method, Search) else _density(course),
            loss=stats.loss,
            validation_accuracy=self.laboratory.validate(self._models[i]),
            seconds=before + stats.seconds,
            step_ms=1e3 * stats.seconds / stats.steps,
        )
        course.records.append(record)
        self._on_epoch(record)

    def _note_savings(self) -> None:
        assert self.phase is not None
        for course, method in zip(self.courses, self._methods, strict=True):
            forms = method.forms
            if self.laboratory.accelerated(self.job.method, course.seed, self.phase) == NEVER:
                continue
            # Steps of all were timed together: an equal share is each one's.
            share = 1 / len(self.courses)
            dense, sparse = forms.dense_ms, forms.sparse_ms
            saving = Saving(
                method=self.job.method,
                seed=course.seed,
                phase=self.phase,
                steps=forms.sparse_steps,
                dense_ms=math.nan if dense is None else share * dense,
                accelerated_ms=math.nan if sparse is None else share * sparse,
                record=forms.record,
            )
            course.savings.append(saving)

    def _runs(self) -> list[Run]:
        return [
            self._run(course, model)
            for course, model in zip(self.courses, self._models, strict=True)
        ]

    def _run(self, course: Course, model: nn.Module) -> Run:
        ticket = course.ticket
        return Run(
            method=self.job.method,
            seed=course.seed,
            density=_density(course),
            weights_left=self.laboratory.maskable_weights
            if ticket is None
            else ticket.weights_left,
            accuracy_before=course.accuracy,
            accuracy_after=self.laboratory.test(model),
            find_epochs=len(course.of("find")),
            finetune_epochs=len(course.of("finetune")),
            find_seconds=course.seconds("find"),
            finetune_seconds=course.seconds("finetune"),
            step_ms=course.step_ms(),
            layer_density={} if ticket is None else ticket.layer_density,
        )


def _density(course: Course) -> float:
    return 1.0 if course.ticket is None else course.ticket.density


def _course_state(course: Course) -> dict[str, Any]:
    return {
        "seed": course.seed,
        "records": [asdict(record) for record in course.records],
        "savings": [asdict(saving) for saving in course.savings],
        "ticket": None if course.ticket is None else vars(course.ticket),
        "accuracy": course.accuracy,
        "drawn_seconds": course.drawn_seconds,
    }


def _course(state: dict[str, Any]) -> Course:
    return Course(
        seed=state["seed"],
        records=[as_record(EpochRecord, record) for record in state["records"]],
        savings=[as_record(Saving, saving) for saving in state["savings"]],
        ticket=None if state["ticket"] is None else Ticket(**state["ticket"]),
        accuracy=state["accuracy"],
        drawn_seconds=state["drawn_seconds"],
    )
