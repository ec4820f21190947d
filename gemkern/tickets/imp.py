"""Iterative magnitude pruning: train, prune the smallest weights, rewind, and again.

Frankle and Carbin, ICLR 2019, section 1; rewinding to an early step k, Frankle et al., ICML 2020,
Algorithm 2. With w_k the weights after k steps of the first round, each round is::

    w = w after round_epochs epochs of SGD, under q
    q = q without its ceil(prune * sum(q)) smallest |w|, over the whole network
    w = w_k where q, else 0

The last round removes just what brings the count to round(density * total).

Cost: about log(density) / log(1 - prune) rounds, in each step a forward and a backward pass.
Float32 momentum for each weight, and a copy of the network at step k; where k is not 0, of its
momentum too.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.schedules import imp_weights_left
from gemkern.tickets.search import remove_lowest
from gemkern.tickets.state import load_weights_state, weights_state, zero_masked_weights
from gemkern.tickets.ticket import Ticket
from gemkern.tickets.weight_search import WeightSearch
from gemkern.training.forms import Accelerated
from gemkern.training.weights import WeightTraining


class IMP(WeightSearch):
    """Find a ticket in `model`, whose weights learn (`gemkern.convert(model)`), round by round.

    A round trains for `round_epochs` epochs, removes the smallest magnitudes over all layers, ties
    by lowest index, and rewinds. The ticket is what stands after the last round's rewind. Rewinding
    to step k puts weights, all other parameters, batch-norm statistics, momentum and the place in
    the learning-rate schedule back to what they were after k steps of the first round; from there
    the schedule goes on, and keeps its last value where it ends before the round does.

    Args:
        model: a converted model without scores. Let its weights begin at different sizes, as the
            authors do (Kaiming normal): of signed constants, sqrt(2 / fan_in) large, magnitudes
            remove the layers with the largest fan-in first.
        density: fraction of the maskable weights that remains in the end, in (0, 1); less than is
            active at first.
        round_epochs: length of one round; `.epochs` is that of all rounds.
        prune: fraction of the remaining weights that a round removes; the last removes just enough.
        rewind: "init" (step 0), a step of the first round, or "learning-rate": keep the trained
            weights and begin the schedule and the momentum anew.
        lr, momentum, weight_decay, schedule: of `gemkern.training.WeightTraining`.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.
        accelerated: True to run the layers on the sparse kernels wherever steps are faster for it,
            which is measured; or another choice of `gemkern.training.Forms`.

    Raises:
        GemkernError: the model has scores, an unknown rewinding, or a plan that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        round_epochs: int,
        *,
        prune: float = 0.2,
        rewind: str | int = "init",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        model_seed: int | None = None,
        name: str | None = None,
        accelerated: Accelerated = False,
    ) -> None:
        super().__init__(
            model,
            round_epochs,
            method="IMP",
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        active = self._plan_from(density)
        counts = [active, *imp_weights_left(active, density * (self.total / active), prune)]
        self._removals = [before - after for before, after in itertools.pairwise(counts)]
        self._round_epochs = self.epochs
        self.epochs *= self.rounds
        self._rewind_step = _rewind_step(rewind)
        self._point: _RewindPoint | None = None
        self._mark_rewind_point()
        self._begin(self._training.optimizer, accelerated)

    @property
    def rounds(self) -> int:
        """How often the search prunes."""
        return len(self._removals)

    def state_dict(self) -> dict[str, Any]:
        """Return everything beside the model's state: place, training and rewind point."""
        point = None if self._point is None else self._point.as_dict()
        return {**super().state_dict(), "rewind_point": point}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first.

        Raises:
            GemkernError: the search was accelerated, and the model does not have its masks.
        """
        super().load_state_dict(state)
        point = state["rewind_point"]
        self._point = None if point is None else _RewindPoint(**point)

    def end_step(self) -> None:
        """Count the step; where it is the one to rewind to, keep what there is.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        self._mark_rewind_point()

    def _close_epoch(self) -> bool:
        self._check_numbers("weight", self._magnitudes())
        self._check_rewind_step()
        self._training.end_epoch()
        self.epoch += 1
        # A step on the border of two epochs belongs to the later one's learning rate.
        self._mark_rewind_point()
        if self.epoch % self._round_epochs != 0:
            return False
        self._close_round(self.epoch // self._round_epochs - 1)
        return True

    def _check_rewind_step(self) -> None:
        ends_first = self.epoch + 1 == self._round_epochs
        if ends_first and self._rewind_step is not None and self._steps <= self._rewind_step:
            raise GemkernError(
                f"there is no rewinding to step {self._rewind_step}: the first round had "
                f"{self._steps} steps; rewind to an earlier one or train longer rounds"
            )

    def _close_round(self, index: int) -> None:
        self._whole()
        active = [layer.active for layer in self.layers.values()]
        remove_lowest(self._magnitudes(), active, self._removals[index])
        if self._point is None:
            self._training.restart()
        else:
            self._point.restore(self.model, self._training)
        zero_masked_weights(self.model)
        self.optimizer.refresh()

    def _mark_rewind_point(self) -> None:
        if self._steps == self._rewind_step:
            self._point = _RewindPoint.of(self.model, self._training)

    def _start(self) -> list[Tensor]:
        return [] if self._point is None else list(self._point.weights.values())

    def _found(self) -> Ticket:
        return Ticket.from_model(
            self.model,
            method="imp",
            weights=None if self._point is None else self._point.weights,
            name=self._name,
            seed=self._model_seed,
        )


@dataclass(frozen=True)
class _RewindPoint:
    """A moment of the first round: the model's weights and the state of their training."""

    weights: dict[str, Tensor]
    training: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, training: WeightTraining) -> _RewindPoint:
        weights = {entry: tensor.clone() for entry, tensor in weights_state(model).items()}
        return cls(weights, copy.deepcopy(training.state_dict()))

    def restore(self, model: nn.Module, training: WeightTraining) -> None:
        load_weights_state(model, self.weights)
        training.load_state_dict(self.training)

    def as_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "training": self.training}


def _rewind_step(rewind: str | int) -> int | None:
    if rewind == "learning-rate":
        return None
    if rewind == "init":
        return 0
    unknown = (
        f'IMP cannot rewind to {rewind!r}: choose "init", "learning-rate" or a step, 0 or later'
    )
    try:
        return whole_number("the step", rewind, least=0)
    except GemkernError:
        raise GemkernError(unknown) from None


@dataclass(frozen=True)
class IMPSettings:
    """The settings of IMP in a race, whatever it rewinds to."""

    imp_init: str = option("kaiming_normal", "Initial weights of IMP.")
    imp_epochs: int = option(150, "Epochs of a round.", epochs=True)
    imp_rewind: str = option("1000", "Where a round of imp rewinds to: init or a step.")
    imp_lr: float = option(0.1, "Learning rate of the first epoch of a round.")
    imp_prune: float = option(0.2, "Fraction of the remaining weights that a round removes.")


@dataclass(frozen=True)
class ShortIMPSettings(IMPSettings):
    """The settings of IMP with short rounds."""

    imp_short_epochs: int = option(5, "Epochs of a round of imp-short.", epochs=True)


def warm(start: Start) -> IMP:
    """Return IMP that rewinds to an early step, as Rare Gems' "IMP warm" does."""
    return _pruned(start, start.own.imp_epochs, rewind_point(start.own.imp_rewind))


def cold(start: Start) -> IMP:
    """Return IMP that rewinds to the initial weights (Frankle and Carbin, ICLR 2019).

    The rewinding of a round is::

        w = w_0 where q, else 0

    Cost: that of `imp`, but no momentum is copied.
    """
    return _pruned(start, start.own.imp_epochs, "init")


def short(start: Start) -> IMP:
    """Return cold IMP with short rounds, as in the public code of Rare Gems (NeurIPS 2022).

    A round is that of `imp-cold`, but lasts `imp_short_epochs`.

    Cost: that of `imp-cold`, with rounds of so many epochs.
    """
    return _pruned(start, start.own.imp_short_epochs, "init")


def rewinding_the_rate(start: Start) -> IMP:
    """Return IMP that keeps trained weights and rewinds the learning rate alone.

    Renda et al., ICLR 2020, section 2. In place of the rewinding of `imp` a round ends with::

        w = w where q, else 0
        v = 0, lr = that of the first epoch

    Cost: that of `imp`, but nothing is copied.
    """
    return _pruned(start, start.own.imp_epochs, "learning-rate")


def _pruned(start: Start, epochs: int, rewind: str | int) -> IMP:
    """Return the search of IMP, down to the number of weights that all tickets keep."""
    model, own = start.converted(), start.own
    return IMP(
        model,
        start.weights / start.total,
        epochs,
        prune=own.imp_prune,
        rewind=rewind,
        lr=own.imp_lr,
        weight_decay=start.weight_decay,
        schedule=start.schedule,
        model_seed=start.seed,
        name=start.name,
        accelerated=start.accelerated(),
    )


def rewind_point(text: str) -> str | int:
    """Return a rewinding that is written down as `IMP` takes it.

    Raises:
        GemkernError: it is not "init", "learning-rate" or a step.
    """
    if text in ("init", "learning-rate"):
        return text
    if text.isdecimal():
        return int(text)
    raise GemkernError(f"IMP cannot rewind to {text!r}: give init, learning-rate or a step number")


ENTRY = Entry(warm, colour="#0072B2", settings=IMPSettings, init="imp_init")
COLD = Entry(cold, colour="#6BAED6", settings=IMPSettings, init="imp_init")
SHORT = Entry(short, colour="#08306B", settings=ShortIMPSettings, init="imp_init")
LEARNING_RATE = Entry(rewinding_the_rate, colour="#4B0082", settings=IMPSettings, init="imp_init")
