"""What an experiment measures: a record an epoch, a run, and a phase that was accelerated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Failure:
    """A job that failed: what it was, and why."""

    method: str
    seeds: Sequence[int]
    why: str

    @property
    def what(self) -> str:
        """The method and its seeds, as a row of a table is called."""
        return f"{self.method}, seed {', '.join(map(str, self.seeds))}"

    @property
    def sentence(self) -> str:
        """What failed, and why."""
        return f"{self.what}, failed: {self.why}"


Record = TypeVar("Record", Run, EpochRecord, Saving, Failure)
# Of a whole number: sums and means of them are floats.
LARGEST = 2**64


def as_record(kind: type[Record], entry: Any) -> Record:
    """Return what was written down as JSON; a null number is NaN.

    Raises:
        ValueError: it is nothing of that kind.
    """
    hints = get_type_hints(kind)
    needed = {one.name for one in fields(kind) if one.default_factory is MISSING}
    if not isinstance(entry, dict) or not needed <= entry.keys() <= hints.keys():
        raise ValueError(f"expected the fields {', '.join(hints)}")
    return kind(**{name: _value(name, hints[name], entry[name]) for name in entry})


def _value(name: str, hint: Any, value: Any) -> Any:
    """Return `value` as the field `name` of type `hint` holds it."""
    if hint is float and value is None:
        return math.nan
    if get_origin(hint) is dict and isinstance(value, dict):
        _, entries = get_args(hint)
        return {key: _value(f"{name}.{key}", entries, entry) for key, entry in value.items()}
    if get_origin(hint) is list and isinstance(value, list):
        return value
    if get_origin(hint) is Sequence and isinstance(value, list):
        (entries,) = get_args(hint)
        return [_value(f"{name}.{i}", entries, entry) for i, entry in enumerate(value)]
    if get_origin(hint) is Literal:
        fits = value in get_args(hint)
    else:
        # A float may be written without a point; Python takes true for an integer.
        kinds = {float: (float, int), int: (int,), str: (str,)}.get(hint, ())
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        fits = fits and not (isinstance(value, int) and abs(value) > LARGEST)
    if not fits:
        raise ValueError(f"{name} cannot be {value!r}")
    return value
