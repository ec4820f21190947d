"""What an experiment measures: one record an epoch, one record a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
