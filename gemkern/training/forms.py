"""The form of a model from step to step: which of its layers run sparse while it trains.

Where sparse kernels begin to pay depends on the machine, the model and the batch, so it is measured
on the steps of the training itself: a few in each form, then the fastest. What was decided is a
record. Sums round otherwise in another form, so a run that is to come to the same bits as another
replays that one's record.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import ANY_DENSITY, acceleration, form_of, restore_form, take_form, why_left
from gemkern.nn.compression import compressible_layers
from gemkern.ops.dispatch import choose
from gemkern.optim import carrying, unwrapped
from gemkern.training.layer_times import Inputs, slower_sparse
from gemkern.training.trial import Trial

DENSE, SPARSE, MIXED = "dense", "sparse", "mixed"
MEASURE, ALWAYS, NEVER = CHOICES = "measure", "always", "never"
Record = Sequence[Mapping[str, Any]]
# What `Forms` takes: True is to measure, False never.
Accelerated = bool | str | Record


class Forms:
    """Let a model train in its fastest form, and keep a record.

    Call `end_step` after each step, `masks_changed` when weights were frozen, and `pause` where
    something else than steps takes time.

    Args:
        model: converted; one with no masked layer stays as it is.
        optimizer: what it remembers of the layers follows them.
        accelerated: "measure" or True; "never" or False; "always" for every layer that the kernels
            serve, from the first step; or the `record` of another run, which is replayed.

    Attributes:
        record: for each change {"step": how many steps were taken before, "compressed": the names
            of the layers that run sparse}, and where it was measured "ms": milliseconds of a step
            in each form.
        steps: how many steps were taken.
        sparse_steps: how many of them with a layer that ran sparse.

    Raises:
        GemkernError: `accelerated` is nothing of that.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, accelerated: Accelerated
    ) -> None:
        self._model, self._optimizer = unwrapped(model), optimizer
        self._layers: dict[str, Any] = dict(compressible_layers(self._model))
        self._choice, self._replayed = read_choice(accelerated if self._layers else False)
        self.record: list[dict[str, Any]] = []
        self.steps = 0
        self.sparse_steps = 0
        # Of those that were timed: how many, and their seconds.
        self._timed: tuple[int, float] = 0, 0.0
        self._compressed: list[str] = form_of(self._model)["compressed"]
        self._trial: Trial | None = None
        # The last trial: what it came to, how many weights were active, whether another may differ.
        self._measured: dict[str, float] = {}
        self._measured_left = 0
        self._is_settled = False
        self._inputs = Inputs()
        self._ended: float | None = None
        if not self.never:
            self._attempt(self._begin)

    @property
    def never(self) -> bool:
        """Whether the form stays what it is."""
        return self._choice == NEVER

    @property
    def dense_ms(self) -> float | None:
        """The milliseconds of a dense step, where they were measured."""
        measured = [entry["ms"][DENSE] for entry in self.record if DENSE in entry.get("ms", {})]
        return measured[-1] if measured else None

    @property
    def sparse_ms(self) -> float | None:
        """The mean milliseconds of a step with a layer that ran sparse, where any was timed."""
        count, seconds = self._timed
        return 1e3 * seconds / count if count else None

    def end_step(self) -> None:
        """Note that a step has ended; change the form for the next one where that is due."""
        if self.never:
            return
        self.steps += 1
        seconds = None if self._ended is None else time.perf_counter() - self._ended
        self.sparse_steps += bool(self._compressed)
        if self._compressed and seconds is not None:
            count, sum_of_all = self._timed
            self._timed = count + 1, sum_of_all + seconds
        self._attempt(lambda: self._go_on(seconds))
        self._ended = time.perf_counter()

    def pause(self) -> None:
        """Let the time until the end of the next step not count."""
        self._ended = None

    def masks_changed(self) -> None:
        """Follow masks that lost weights, and measure again where that may change the answer."""
        if not self.never:
            self._attempt(self._follow_masks)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on to the same forms, and the form of the model now."""
        return {
            "form": form_of(self._model),
            "left": self._left(),
            "record": list(self.record),
            "steps": self.steps,
            "sparse": [self.sparse_steps, *self._timed],
            "compressed": self._compressed,
            "trial": None if self._trial is None else asdict(self._trial),
            "inputs": dict(self._inputs.seen),
            "measured": [self._measured, self._measured_left, self._is_settled],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; load the states of the model and the optimiser first.

        Raises:
            GemkernError: the model does not have the masks of `state`.
        """
        if state["form"]["compressed"] and state["left"] != self._left():
            raise GemkernError(
                f"the training to continue had {state['left']} weights left and the model has "
                f"{self._left()}: load the model's state first, then the training's"
            )
        with carrying(self._optimizer, self._layers.values()):
            restore_form(self._model, state["form"])
        self.record, self.steps = list(state["record"]), state["steps"]
        self.sparse_steps, *timed = state["sparse"]
        self._timed = timed[0], timed[1]
        self._compressed = state["compressed"]
        self._trial = None if state["trial"] is None else Trial(**copy.deepcopy(state["trial"]))
        self._measured, self._measured_left, self._is_settled = state["measured"]
        self._inputs.seen.update(state["inputs"])
        if self.steps:
            self._inputs.leave()
        self.pause()

    def _begin(self) -> None:
        if self._choice == MEASURE:
            self._begin_trial()
        elif self._choice == ALWAYS:
            self._take(self._served())
        else:
            self._replay()

    def _go_on(self, seconds: float | None) -> None:
        if self._choice == MEASURE and self._trial is not None:
            self._go_on_trying(self._trial, seconds)
        elif self._replayed:
            self._replay()

    def _follow_masks(self) -> None:
        if self._compressed:
            with carrying(self._optimizer, self._layers.values()):
                take_form(self._model, self._compressed)
        if self._choice == MEASURE and self._trial is None and self._may_differ():
            self._begin_trial()

    def _begin_trial(self) -> None:
        seen = self._inputs.seen or self._layers
        served = [name for name in self._served() if name in seen]
        forms = {DENSE: [], SPARSE: served} | self._mixed(served)
        # The form of now has the first turn.
        first = {name: form for name, form in forms.items() if form == self._compressed}
        self._trial = Trial(first | forms, self._left())
        if not self._inputs.seen:
            self._inputs.watch({name: self._layers[name] for name in served})
        self._take_turn(self._trial)

    def _go_on_trying(self, trial: Trial, seconds: float | None) -> None:
        trial.note(seconds)
        if self.steps == 1:
            self._look_at_inputs(trial)
        if not trial.is_over:
            self._take_turn(trial)
            return
        best = next(iter(trial.medians))
        self._trial = None
        self._measured, self._measured_left = trial.medians, trial.left
        self._is_settled = best == SPARSE and len(trial.running) == 1
        self._take(trial.forms[best], ms={form: 1e3 * s for form, s in trial.medians.items()})

    def _look_at_inputs(self, trial: Trial) -> None:
        """Let the forms be of layers that were called: weights of others are read past them."""
        self._inputs.leave()
        seen = self._inputs.seen or self._layers
        trial.forms[SPARSE] = [name for name in trial.forms[SPARSE] if name in seen]
        for name, form in self._mixed(trial.forms[SPARSE]).items():
            trial.add(name, form)

    def _take_turn(self, trial: Trial) -> None:
        form = trial.forms[trial.turn]
        if form != self._compressed:
            self._take(form)

    def _may_differ(self) -> bool:
        """Return whether another trial could come to another form than the last.

        With fewer weights a sparse step gets faster, at most in proportion; with as many at other
        places it takes as long.
        """
        if self._is_settled or self._left() == self._measured_left:
            return False
        best = min(self._measured.values(), default=0.0)
        least = self._measured.get(SPARSE, 0.0) * self._left() / max(self._measured_left, 1)
        return least < best or next(iter(self._measured), SPARSE) == SPARSE

    def _mixed(self, served: list[str]) -> dict[str, list[str]]:
        """Return the form in which layers that are slower sparse, alone, stay dense; or nothing."""
        slower = slower_sparse(self._layers, self._inputs) if self._inputs.seen else set()
        mixed = [name for name in served if name not in slower]
        return {} if mixed in ([], served) else {MIXED: mixed}

    def _replay(self) -> None:
        for entry in self._replayed:
            if entry["step"] == self.steps and entry["compressed"] != self._compressed:
                unknown = [name for name in entry["compressed"] if name not in self._layers]
                if unknown:
                    raise GemkernError(
                        f"the record is that of another model: this one has no layer {unknown[0]!r}"
                    )
                self._take(list(entry["compressed"]))

    def _take(self, compressed: list[str], **measured: Any) -> None:
        """Give the model another form, and write it down."""
        if compressed != self._compressed:
            with carrying(self._optimizer, self._layers.values()):
                take_form(self._model, compressed)
        self._compressed = compressed
        self.record.append({"step": self.steps, "compressed": list(compressed), **measured})

    def _served(self) -> list[str]:
        """Return the layers that the kernels serve, whatever their density.

        Raises:
            GemkernError: there is none.
        """
        if not runs_sparse("cpu"):
            raise GemkernError(
                "no backend but the reference serves sparse layers: pip install numba"
            )
        report = acceleration(self._model, ANY_DENSITY)
        if not report.converted:
            raise GemkernError(why_left(report))
        return report.converted

    def _left(self) -> int:
        return sum(int(layer.active.sum()) for layer in self._layers.values())

    def _attempt(self, change: Callable[[], None]) -> None:
        """Change the form, or warn, once, that it stays what it is."""
        try:
            change()
        except Exception as error:
            self._choice = NEVER
            self._inputs.leave()
            warnings.warn(
                f"{type(self._model).__name__} is not accelerated ({error}): mend that, or leave "
                "accelerated=False",
                stacklevel=4,
            )


def runs_sparse(device: str) -> bool:
    """Return whether a backend other than the reference serves sparse layers on a device type."""
    try:
        return choose("norm_sparse_conv2d", device) != "reference"
    except GemkernError:
        return False


def read_choice(accelerated: Accelerated) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the choice, and what is to be replayed.

    Raises:
        GemkernError: `accelerated` is nothing that `Forms` takes.
    """
    if isinstance(accelerated, bool):
        return (MEASURE if accelerated else NEVER), []
    if isinstance(accelerated, str):
        if accelerated not in CHOICES:
            raise GemkernError(
                f"acceleration cannot be {accelerated!r}: choose one of {', '.join(CHOICES)}, or "
                "give the record of another run"
            )
        return accelerated, []
    record = list(accelerated)
    if not all(isinstance(one, Mapping) and {"step", "compressed"} <= one.keys() for one in record):
        raise GemkernError(
            "the record to replay has an entry without a step or the names of compressed layers: "
            "give the record of another run's forms as it is"
        )
    return "replay", record
