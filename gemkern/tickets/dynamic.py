"""Dynamic sparse training: as many weights as remain, from the first step, at places that move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.tickets import ranks
from gemkern.tickets.erk import erk_masks
from gemkern.tickets.schedules import check_density
from gemkern.tickets.ticket import Ticket
from gemkern.tickets.weight_search import WeightSearch
from gemkern.training.forms import Accelerated


class Dynamic(WeightSearch):
    """Train `model` (`gemkern.convert(model)`) under masks that move while their counts stay.

    The masks begin as those of `erk_ticket`. Now and then, in every layer, a fraction of the active
    weights, those of the smallest magnitude, is dropped, and as many grow at places that are not
    active then; ties by lowest index. What grows begins at zero, without momentum; but what is
    dropped and grows again at once stays what it was (as in the code of Evci et al.), so nothing
    moves in a layer that is dense. The ticket holds the masks of the end and the trained weights.

    A subclass has a name, and says when (`_is_due` is true after the last step before an update),
    which fraction (`_fraction`) and where (`_move`).

    Args:
        model: a converted model without scores, all of whose weights are active.
        density: fraction of the maskable weights that is active, in (0, 1).
        epochs: length of the training.
        alpha: the fraction that moves in the first update, in (0, 1].
        every: steps between updates.
        end: fraction of the training after which masks stay, in (0, 1]; in whole epochs, rounded
            down, but not to none.
        seed: draws the first masks, and what else a subclass draws.
        lr, momentum, weight_decay, schedule: of `gemkern.training.WeightTraining`.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.
        accelerated: True to run the layers on the sparse kernels wherever steps are faster for it,
            which is measured; or another choice of `gemkern.training.Forms`.

    Raises:
        GemkernError: the model has scores or is masked already, or a plan that cannot be.
    """

    # For messages and the ticket.
    _called: str
    # The least number of steps from one update to the next.
    _least_steps = 1

    def __init__(
        self,
        model: nn.Module,
        density: float,
        epochs: int,
        *,
        alpha: float = 0.3,
        every: int = 100,
        end: float = 0.75,
        seed: int = 0,
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
            method=self._called,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        check_density(density)
        for what, fraction in (("alpha", alpha), ("end", end)):
            if not 0.0 < fraction <= 1.0:
                raise GemkernError(
                    f"{what} of {self._called} is {fraction:g}: give a fraction, 0 < {what} <= 1"
                )
        if self.weights_left < self.total:
            raise GemkernError(
                f"the model has masks already and {self._called} draws its own: give it a model "
                "all of whose weights are active"
            )
        self._alpha = alpha
        self._every = whole_number("the number of steps between updates", every, self._least_steps)
        self._seed = whole_number("the seed", seed)
        # How many epochs have updates.
        self._moving_epochs = max(1, int(round(end * self.epochs, 6)))
        self.optimizer = self._training.optimizer
        self._counts = self._mask(density)
        self._begin(self.optimizer, accelerated)

    @property
    def capturable(self) -> bool:
        """Whether `learn` works on the same tensors, from the same numbers, to the end: no."""
        return False

    @abstractmethod
    def _fraction(self) -> float:
        """Return which fraction of a layer's active weights an update of now moves."""

    @property
    def _is_due(self) -> bool:
        """Whether an update comes after the steps that were taken."""
        return self.epoch < self._moving_epochs and self._steps % self._every == 0

    def _mask(self, density: float) -> list[int]:
        """Mask the layers for the beginning; return how many weights are active in each."""
        self._whole()
        masks = erk_masks(self.model, density, seed=self._seed)
        for name, layer in self.layers.items():
            layer.active.copy_(masks[name])
        self._zero_what_is_masked()
        return [int(mask.sum()) for mask in masks.values()]

    def _move(self, fraction: float, growth: Sequence[Tensor | None]) -> None:
        """Drop a fraction of each layer's weights, and grow as many where `growth` is the largest.

        The layers are whole. A layer whose growth is None stays as it is.
        """
        moving: list[tuple[Any, Tensor, int]] = [
            (layer, values, int(round(fraction * count, 6)))
            for layer, values, count in zip(self.layers.values(), growth, self._counts, strict=True)
            if values is not None
        ]
        layers, values = [layer for layer, _, _ in moving], [-values for _, values, _ in moving]
        k = torch.tensor([k for _, _, k in moving], device=values[0].device)
        active = [layer.active for layer in layers]
        _remove([layer.weight.detach().abs() for layer in layers], active, k)
        free = [~on for on in active]
        _remove(values, free, k)
        for on, rest in zip(active, free, strict=True):
            on.copy_(~rest)
        self._zero_what_is_masked()

    def _masks_moved(self) -> None:
        """Let all else follow an update, when its step has ended."""
        if self._has_ranks:
            ranks.check_masks(self.layers, f"after step {self._steps}")
        self.forms.masks_changed()
        self.forms.pause()

    def _close_epoch(self) -> bool:
        self._check_numbers("weight", self._magnitudes())
        self._training.end_epoch()
        self.epoch += 1
        if self.epoch == self.epochs:
            self._whole()
        # Masks move after steps, not here.
        return False

    def _start(self) -> list[Tensor]:
        layers = self.layers.values()
        return [one for layer in layers for one in (layer.active, layer.weight)]

    def _found(self) -> Ticket:
        return Ticket.from_model(
            self.model, method=self._called, name=self._name, seed=self._model_seed
        )


def _remove(values: Sequence[Tensor], among: Sequence[Tensor], k: Tensor) -> None:
    """Take the k[i] lowest values of layer i out of those that are `among`."""
    ops.remove_lowest(values, among, *ops.select_kth(values, among, k))
