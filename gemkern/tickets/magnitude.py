"""Gradual magnitude pruning: the smallest weights go, a few at a time, while the others train.

Zhu and Gupta, "To prune, or not to prune", 2017, section 3, equation 1. Of n_0 weights n_J are to
remain; pruning j of J, `every` epochs apart until the fraction `end` of all, is::

    q = q without its smallest |w| over the whole network, n_j remain
    w = w where q, else 0
    n_j = n_J + round((n_0 - n_J) * (1 - j / J)^3)

Cost: in each step of all epochs a forward and a backward pass. Float32 momentum for each weight.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.search import remove_lowest
from gemkern.tickets.ticket import Ticket
from gemkern.tickets.weight_search import WeightSearch
from gemkern.training.forms import Accelerated

# The exponent of what is left of the way, in the ramp of the sparsity.
RAMPS = {"cubic": 3, "linear": 1}


class GradualMagnitude(WeightSearch):
    """Prune `model` (`gemkern.convert(model)`) while its weights learn.

    At the ends of planned epochs the smallest magnitudes over all layers go, ties by lowest index,
    and never come back. The ticket holds the trained weights.

    Args:
        model: a converted model without scores. Let its weights begin at different sizes, as for
            `IMP`.
        density: fraction of the maskable weights that remains in the end, in (0, 1); less than is
            active at first.
        epochs: length of the training.
        every: epochs between prunings.
        ramp: of the density over prunings, a name of `ramp_weights_left`.
        end: fraction of the training by whose end the density is reached, in (0, 1]; where that is
            before the first pruning, by the first.
        lr, momentum, weight_decay, schedule: of `gemkern.training.WeightTraining`.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.
        accelerated: True to run the layers on the sparse kernels wherever steps are faster for it,
            which is measured; or another choice of `gemkern.training.Forms`.

    Raises:
        GemkernError: the model has scores, an unknown ramp, or a plan that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        epochs: int,
        *,
        every: int = 1,
        ramp: str = "cubic",
        end: float = 0.75,
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
            epochs,
            method="gradual magnitude pruning",
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        active = self._plan_from(density)
        prunings = pruning_epochs(self.epochs, every, end)
        target = max(1, round(density * self.total))
        counts = [active, *ramp_weights_left(active, target, len(prunings), ramp)]
        removals = [before - after for before, after in itertools.pairwise(counts)]
        self._removals = dict(zip(prunings, removals, strict=True))
        self._begin(self._training.optimizer, accelerated)

    def _close_epoch(self) -> bool:
        self._check_numbers("weight", self._magnitudes())
        self._training.end_epoch()
        self.epoch += 1
        removed = self._removals.get(self.epoch, 0)
        if removed or self.epoch == self.epochs:
            self._whole()
        if removed:
            active = [layer.active for layer in self.layers.values()]
            remove_lowest(self._magnitudes(), active, removed)
            self._zero_what_is_masked()
        return removed > 0

    def _found(self) -> Ticket:
        return Ticket.from_model(
            self.model, method="magnitude", name=self._name, seed=self._model_seed
        )


def pruning_epochs(epochs: int, every: int = 1, end: float = 0.75) -> list[int]:
    """Return after how many finished epochs weights are pruned: multiples of `every`.

    The last is no later than the fraction `end` of all epochs, if there is one before that.

    Raises:
        GemkernError: `end` is no fraction, or no epoch is the first after which to prune.
    """
    every = whole_number("the number of epochs between prunings", every, least=1)
    if not 0.0 < end <= 1.0:
        raise GemkernError(
            f"pruning cannot end at the fraction {end:g} of the training: give 0 < end <= 1"
        )
    if every > epochs:
        raise GemkernError(
            f"pruning every {every} epochs never happens in a training of {epochs}: "
            "prune more often or train longer"
        )
    last = max(every, int(round(end * epochs, 6)))
    return list(range(every, last + 1, every))


def ramp_weights_left(active: int, target: int, prunings: int, ramp: str = "cubic") -> list[int]:
    """Return how many weights are active after each pruning; the last leaves `target`.

    The sparsity after pruning j of n is s_f + (s_i - s_f) (1 - j/n)^3 by the "cubic" ramp (Zhu and
    Gupta, equation 1), and s_f + (s_i - s_f) (1 - j/n) by the "linear" one; counts are rounded.

    Raises:
        GemkernError: there is no such ramp.
    """
    if ramp not in RAMPS:
        raise GemkernError(f"no ramp is called {ramp!r}: choose one of {', '.join(RAMPS)}")
    ways = [Fraction(prunings - j, prunings) ** RAMPS[ramp] for j in range(1, prunings + 1)]
    return [target + round((active - target) * way) for way in ways]


@dataclass(frozen=True)
class MagnitudeSettings:
    """The settings of gradual magnitude pruning in a race."""

    magnitude_init: str = option("kaiming_normal", "Initial weights of gradual magnitude pruning.")
    magnitude_epochs: int = option(150, "Epochs of gradual magnitude pruning.", epochs=True)
    magnitude_lr: float = option(0.1, "Learning rate of its first epoch.")
    magnitude_every: int = option(1, "Epochs between its prunings.", epochs=True)
    magnitude_ramp: str = option("cubic", "Of its density over prunings: cubic or linear.")
    magnitude_end: float = option(0.75, "Fraction of its epochs after which none prunes.")


def gradually_pruned(start: Start) -> GradualMagnitude:
    """Return the search down to the number of weights that all tickets keep."""
    model, own = start.converted(), start.own
    return GradualMagnitude(
        model,
        start.weights / start.total,
        own.magnitude_epochs,
        every=own.magnitude_every,
        ramp=own.magnitude_ramp,
        end=own.magnitude_end,
        lr=own.magnitude_lr,
        weight_decay=start.weight_decay,
        schedule=start.schedule,
        model_seed=start.seed,
        name=start.name,
        accelerated=start.accelerated(),
    )


ENTRY = Entry(gradually_pruned, colour="#98DF8A", settings=MagnitudeSettings, init="magnitude_init")
