"""What an experiment measures: a record an epoch, a run, and a phase that was accelerated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["find", "finetune"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one method and seed.

    `epoch` counts from 1 within its phase. `density` is that of the weights still active at the end
    of the epoch. `loss` is the mean over the epoch's training batches. `validation_accuracy` is a
    fraction. `seconds` sums the training steps of this method and seed from its start (evaluation
    left out); `step_ms` is the mean duration of this epoch's steps in milliseconds.
    """

    method: str
    seed: int
    phase: Phase
    epoch: int
    density: float
    loss: float
    validation_accuracy: float
    seconds: float
    step_ms: float


@dataclass(frozen=True)
class Run:
    """One method, one seed: the ticket found and what finetuning made of it.

    `accuracy_before` and `accuracy_after` (finetuning) are fractions of the test set. Seconds count
    training steps alone. `step_ms` is the median over epochs of the mean step, in milliseconds, of
    the search, or of finetuning where nothing is searched.
    """

    method: str
    seed: int
    density: float
    weights_left: int
    accuracy_before: float
    accuracy_after: float
    find_epochs: int
    finetune_epochs: int
    find_seconds: float
    finetune_seconds: float
    step_ms: float
    layer_density: dict[str, float]


@dataclass(frozen=True)
class Saving:
    """What acceleration saved in one phase of a run, and how to come to the same bits again.

    `steps` ran on the sparse kernels, in `accelerated_ms` milliseconds each, where a dense step of
    the same phase took `dense_ms`; NaN is what was not measured. `record` is that of
    `gemkern.training.Forms`.
    """

    method: str
    seed: int
    phase: Phase
    steps: int
    dense_ms: float
    accelerated_ms: float
    record: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_known(self) -> bool:
        """Whether steps of both kinds were measured."""
        return math.isfinite(self.dense_ms - self.accelerated_ms)

    @property
    def seconds(self) -> float:
        """The seconds that were saved; below zero where dense steps would have been faster."""
        return self.steps * (self.dense_ms - self.accelerated_ms) / 1e3
