"""Where experiments happen: data on its device, fresh models, and what all methods share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from gemkern.data import Dataset, Split, batches, load
from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Phase, Saving
from gemkern.experiments.settings import AUTOCAST, Settings
from gemkern.models import build
from gemkern.tickets import Search, Ticket
from gemkern.training import (
    EpochStats,
    Forms,
    Method,
    Trainee,
    WeightTraining,
    evaluate,
    train_together,
)
from gemkern.training.forms import CHOICES, NEVER, Accelerated, Record, runs_sparse

# The record of a method, a seed and a phase.
Records = Mapping[tuple[str, int, str], Record]


@dataclass
class Notebook:
    """The records of one method and seed, in the order in which its epochs were trained."""

    method: str
    seed: int
    on_epoch: Callable[[EpochRecord], None]
    on_saving: Callable[[Saving], None] = lambda saving: None
    records: list[EpochRecord] = field(default_factory=list)

    def write(self, phase: Phase, stats: EpochStats, density: float, validation: float) -> None:
        """Add one epoch; its seconds go on from the last one's."""
        before = self.records[-1].seconds if self.records else 0.0
        record = EpochRecord(
            method=self.method,
            seed=self.seed,
            phase=phase,
            epoch=stats.epoch,
            density=density,
            loss=stats.loss,
            validation_accuracy=validation,
            seconds=before + stats.seconds,
            step_ms=1e3 * stats.seconds / stats.steps,
        )
        self.records.append(record)
        self.on_epoch(record)

    def epochs(self, phase: Phase) -> int:
        """Return how many epochs `phase` took."""
        return sum(record.phase == phase for record in self.records)

    def seconds(self, phase: Phase) -> float:
        """Return the seconds that `phase` trained."""
        ends = [record.seconds for record in self.records if record.phase == phase]
        if not ends:
            return 0.0
        return ends[-1] - (self.seconds("find") if phase == "finetune" else 0.0)

    def step_ms(self) -> float:
        """Return the median over epochs of the mean step, of the search if there was one."""
        phase = "find" if self.epochs("find") else "finetune"
        return statistics.median(r.step_ms for r in self.records if r.phase == phase)


class Laboratory:
    """The settings of an experiment, with its data loaded to the device.

    Args:
        records: of the run that the settings' `accelerate` names, to be replayed.

    Raises:
        GemkernError: the data cannot be read, the model or the device is not known, or the settings
            do not fit together.
    """

    def __init__(self, settings: Settings, records: Records | None = None) -> None:
        self.settings = settings
        self._records = records or {}
        self.dataset: Dataset = load(
            settings.data, settings.data_dir, train_limit=settings.train_limit
        ).to(settings.device)
        if settings.batch_size < 1:
            raise GemkernError(
                f"a batch of {settings.batch_size} images cannot be trained on: "
                "give --set batch_size=64 or another number of at least 1"
            )
        if settings.seeds_at_once < 1:
            raise GemkernError(
                f"{settings.seeds_at_once} seeds at once train nothing: "
                "give --set seeds_at_once=1 or more"
            )
        if len(self.dataset.train) < settings.batch_size:
            raise GemkernError(
                f"a batch of {settings.batch_size} images is larger than the "
                f"{len(self.dataset.train)} training images: lower it with --set batch_size=N"
            )

    def fresh_model(self, seed: int, method: str = "gem-miner") -> nn.Module:
        """Return the network of the settings with the initial weights of `method` and `seed`."""
        channels, size, _ = self.dataset.image_shape
        model = build(
            self.settings.model,
            classes=self.dataset.classes,
            channels=channels,
            image_size=size,
            affine=self.settings.affine,
            init=self.settings.init_of(method),
            seed=seed,
        ).to(self.settings.device)
        if self.settings.device.startswith("cuda"):
            # cuDNN's layout, as that of the images; PyTorch's types do not know the argument.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of products and convolutions; None for that of the weights."""
        return AUTOCAST[self.settings.autocast]

    @property
    def may_accelerate(self) -> bool:
        """Whether the sparse kernels serve here, and are asked for."""
        served = runs_sparse(self.settings.device) and self.autocast is None
        return served and self.settings.accelerate != NEVER

    def accelerated(self, notebook: Notebook, phase: Phase) -> Accelerated:
        """Return how a phase of the run of `notebook` is to be accelerated.

        Raises:
            GemkernError: it is to be replayed, and there is no record of it.
        """
        chosen = self.settings.accelerate if self.may_accelerate else NEVER
        if chosen in CHOICES:
            return chosen
        run = notebook.method, notebook.seed, phase
        if run not in self._records:
            raise GemkernError(
                f"{chosen} has no record of {notebook.method}, seed {notebook.seed}, {phase}: "
                "replay a run of the same methods and seeds"
            )
        return self._records[run]

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of a training step: the first batch of seed 0."""
        return next(
            batches(
                self.dataset.train,
                self.settings.batch_size,
                seed=0,
                epoch=0,
                mean=self.dataset.mean,
                std=self.dataset.std,
                augment=self.dataset.augment,
            )
        )

    def find(self, searches: Sequence[Search], notebooks: Sequence[Notebook]) -> None:
        """Run searches to their end, together; each is written down in its notebook."""
        densities = [partial(getattr, search, "density") for search in searches]
        models = [search.model for search in searches]
        self._train(models, searches, "find", densities, notebooks)
        self._note_savings([search.forms for search in searches], "find", notebooks)

    def finetune(
        self, models: Sequence[nn.Module], density: float, notebooks: Sequence[Notebook]
    ) -> None:
        """Train the weights of models of one density under their masks, together.

        The recipe is the settings'; each model's epochs are written down in its notebook.
        """
        methods = [
            self.finetuning(model, self.accelerated(notebook, "finetune"))
            for model, notebook in zip(models, notebooks, strict=True)
        ]
        self._train(models, methods, "finetune", [lambda: density for _ in models], notebooks)
        self._note_savings([method.forms for method in methods], "finetune", notebooks)

    def finetuning(self, model: nn.Module, accelerated: Accelerated = NEVER) -> WeightTraining:
        """Return the settings' finetuning recipe for `model`, before its first step."""
        return WeightTraining(
            model,
            self.settings.finetune_epochs,
            lr=self.settings.finetune_lr,
            weight_decay=self.settings.weight_decay,
            schedule=self.settings.finetune_schedule,
            accelerated=accelerated,
        )

    def test(self, model: nn.Module) -> float:
        """Return the accuracy of `model` on the test set, a fraction."""
        return self._accuracy(model, self.dataset.test)

    def with_ticket(self, ticket: Ticket, seed: int) -> nn.Module:
        """Return a fresh model under `ticket`, ready to finetune."""
        model = self.fresh_model(seed, ticket.method)
        ticket.apply(model)
        return model

    def _train(
        self,
        models: Sequence[nn.Module],
        methods: Sequence[Method],
        phase: Phase,
        densities: Sequence[Callable[[], float]],
        notebooks: Sequence[Notebook],
    ) -> None:
        def write(i: int, stats: EpochStats) -> None:
            validation = self._accuracy(models[i], self.dataset.validation)
            notebooks[i].write(phase, stats, densities[i](), validation)

        trainees = [
            Trainee(model, method, notebook.seed, partial(write, i))
            for i, (model, method, notebook) in enumerate(
                zip(models, methods, notebooks, strict=True)
            )
        ]
        train_together(
            trainees,
            self.dataset,
            batch_size=self.settings.batch_size,
            autocast=self.autocast,
            graph=self.settings.graph,
        )

    def _note_savings(
        self, trained: Sequence[Forms], phase: Phase, notebooks: Sequence[Notebook]
    ) -> None:
        for forms, notebook in zip(trained, notebooks, strict=True):
            if self.accelerated(notebook, phase) == NEVER:
                continue
            # Steps of all were timed together: an equal share is each one's.
            share = 1 / len(trained)
            dense, steps = forms.dense_ms, forms.sparse_steps
            saving = Saving(
                method=notebook.method,
                seed=notebook.seed,
                phase=phase,
                steps=steps,
                dense_ms=math.nan if dense is None else share * dense,
                accelerated_ms=share * 1e3 * forms.sparse_seconds / steps if steps else math.nan,
                record=forms.record,
            )
            notebook.on_saving(saving)

    def _accuracy(self, model: nn.Module, split: Split) -> float:
        return evaluate(model, split, self.dataset, autocast=self.autocast)
