"""SET: masks move to random places.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science", Nature Communications 2018, section "SET"; with updates every so many
steps, as in Evci et al., "Rigging the Lottery", ICML 2020. Masks begin as those of `erk`. In each
layer, of which n weights are active, an update is::

    q = q without its floor(alpha * n) smallest |w|
    q = q with floor(alpha * n) random places outside of it
    w = w where q was true and is true, else 0

Cost: in each step of all epochs a forward and a backward pass. Float32 momentum for each weight,
and in an update a random number for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gemkern.tickets.dynamic import Dynamic
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.randomness import generator


class SET(Dynamic):
    """Train `model` under masks that move at random.

    After every `every` steps the fraction `alpha` of each layer's weights is dropped and as many
    grow at random places. Every step moves weights.

    Args:
        every: steps between updates.

    Others are those of `Dynamic`; so are errors.
    """

    _called = "set"

    def end_step(self) -> None:
        """Count the step; move the masks, if it is time for it.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        if self._is_due:
            self._whole()
            self._move(self._fraction(), self._drawn())
            self._masks_moved()

    def _fraction(self) -> float:
        return self._alpha

    def _drawn(self) -> list[Tensor]:
        """Return a random number for each place, of the seed and the step."""
        stream = generator(f"growth after step {self._steps}", self._seed)
        return [
            torch.rand(layer.active.shape, generator=stream).to(layer.active.device)
            for layer in self.layers.values()
        ]


@dataclass(frozen=True)
class SETSettings:
    """The settings of SET in a race."""

    set_init: str = option("kaiming_normal", "Initial weights of SET.")
    set_epochs: int = option(150, "Epochs of SET.", epochs=True)
    set_lr: float = option(0.1, "Learning rate of its first epoch.")
    set_every: int = option(100, "Steps between updates of its masks.")
    set_end: float = option(0.75, "Fraction of its epochs after which masks stay.")
    set_alpha: float = option(0.3, "Fraction of the weights that an update moves.")


def evolved(start: Start) -> SET:
    """Return the search of SET, with as many weights as all tickets keep."""
    model, own = start.converted(), start.own
    return SET(
        model,
        start.weights / start.total,
        own.set_epochs,
        alpha=own.set_alpha,
        every=own.set_every,
        end=own.set_end,
        seed=start.seed,
        lr=own.set_lr,
        weight_decay=start.weight_decay,
        schedule=start.schedule,
        model_seed=start.seed,
        name=start.name,
        accelerated=start.accelerated(),
    )


ENTRY = Entry(evolved, colour="#FF9896", settings=SETSettings, init="set_init")
