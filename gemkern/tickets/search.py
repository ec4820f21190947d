"""What every search for a ticket has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn import check_form_may_change, is_accelerated
from gemkern.numbers import MOST_EPOCHS, whole_number
from gemkern.optim import masked_layers, unwrapped, whole_shape
from gemkern.optim.layers import is_sharded
from gemkern.tickets import ranks
from gemkern.tickets.schedules import check_density
from gemkern.tickets.ticket import Ticket
from gemkern.training.forms import Accelerated, Forms


class Search(ABC):
    """A method that finds a ticket while a network trains.

    The caller runs the loop: `step()` after each `loss.backward()`, `end_epoch()` after each epoch,
    and after `epochs` of them `ticket()`. A step has two parts: `learn()` is work of the device
    alone, which a captured graph may replay, `end_step()` is the host's. One method is one subclass
    in one file; it fills in `learn`, `_close_epoch` and `_found`, and `end_step` if it counts;
    its `__init__` ends with `_begin`.

    Attributes:
        model: the converted model, searched in place, without what is wrapped around it.
        layers: its masked layers by qualified name.
        total: how many weights can be masked.
        epochs: how long the search lasts.
        epoch: how many epochs are finished.
        optimizer: of what learns.
        forms: which layers run sparse, and the record of it.
    """

    optimizer: torch.optim.Optimizer
    forms: Forms
    # Of the initial weights, for the ticket.
    _model_seed: int | None = None
    # Of what the search draws while it lasts.
    _seed: int = 0

    def __init__(self, model: nn.Module, epochs: int) -> None:
        self.model = unwrapped(model)
        self.layers: dict[str, Any] = dict(masked_layers(self.model))
        if is_accelerated(self.model):
            check_form_may_change(list(self.layers.values()))
        self.total = sum(whole_shape(layer).numel() for layer in self.layers.values())
        self.epochs = whole_number("the number of epochs", epochs, most=MOST_EPOCHS)
        self.epoch = 0
        self._steps_of_epoch = 0
        self._has_stepped = self._has_ranks = False
        for name, layer in self.layers.items():
            if is_sharded(layer.weight):
                raise GemkernError(
                    f"the weight of layer {name!r} is a DTensor, a part of which is on each rank: "
                    "search before sharding, or under DistributedDataParallel"
                )

    def _begin(self, optimizer: torch.optim.Optimizer, accelerated: Accelerated) -> None:
        """Finish the making of a search, with the optimiser of what learns."""
        self.optimizer = optimizer
        self.forms = Forms(self.model, optimizer, accelerated)
        self._join_ranks()

    def step(self) -> None:
        """Learn from the gradients that are there, once, and clear all of the model's gradients.

        Raises:
            GemkernError: the search is over.
        """
        self._check_running()
        self.learn()
        self.end_step()

    @property
    def capturable(self) -> bool:
        """Whether `learn` works on the same tensors, from the same numbers, to the end."""
        return self.forms.never

    def loss(self, outputs: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return what a step descends on, from the model's outputs for `images`: cross-entropy."""
        return F.cross_entropy(outputs, labels)

    @abstractmethod
    def learn(self) -> None:
        """Learn from the gradients that are there, once, and clear all of the model's gradients."""

    def end_step(self) -> None:
        """Finish a step.

        Raises:
            GemkernError: the search is over.
        """
        self._check_running()
        self._steps_of_epoch += 1
        if not self._has_stepped:
            self._has_stepped = True
            self._join_ranks()
        self.forms.end_step()

    def end_epoch(self) -> None:
        """Finish an epoch.

        Raises:
            GemkernError: the search is over, the epoch had no step, a layer's numbers are NaN, or
                ranks that train together have different masks.
        """
        self._check_running()
        if self._steps_of_epoch == 0:
            raise GemkernError(
                f"epoch {self.epoch + 1} had no step to learn from: call step() after each "
                "loss.backward(), and check that there are batches"
            )
        froze = self._close_epoch()
        self._steps_of_epoch = 0
        # When all else is done: whatever fails here, nothing freezes twice.
        if froze and self._has_ranks:
            ranks.check_masks(self.layers, f"after epoch {self.epoch}")
        if froze and self.epoch < self.epochs:
            self.forms.masks_changed()
        self.forms.pause()

    def ticket(self) -> Ticket:
        """Return the ticket that was found.

        Raises:
            GemkernError: the search is not over, or no weight remains.
        """
        if self.epoch < self.epochs:
            raise GemkernError(
                f"the search has finished {self.epoch} of {self.epochs} epochs: there is no ticket "
                "before end_epoch() was called for each"
            )
        return self._found()

    @property
    def weights_left(self) -> int:
        """How many weights are active now; reads the device."""
        counts = torch.stack([layer.active.sum() for layer in self.layers.values()])
        return int(counts.sum())

    @property
    def density(self) -> float:
        """The fraction of the weights that is active now; reads the device."""
        return self.weights_left / self.total

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the search needs, beside the model's state, to continue to the same bits."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, on a model whose own state is loaded too."""

    def _start(self) -> Iterable[Tensor]:
        """Return the tensors, beside the model's state, from which a search begins."""
        return ()

    def _join_ranks(self) -> None:
        """Begin as the first rank does, if DistributedDataParallel trains the model by now."""
        if not self._has_ranks and ranks.train_together(self.layers):
            self._has_ranks = True
            self._model_seed = ranks.first_of(self._model_seed)
            self._seed = ranks.first_of(self._seed)
            ranks.take_from_first(self._start())

    @abstractmethod
    def _close_epoch(self) -> bool:
        """Finish an epoch; return whether weights were frozen."""

    @abstractmethod
    def _found(self) -> Ticket: ...

    def _plan_from(self, density: float) -> int:
        """Return how many weights are active now, which is what the search removes from.

        Raises:
            GemkernError: `density` of all weights would not be less.
        """
        check_density(density)
        left = self.weights_left
        if density * self.total >= left:
            raise GemkernError(
                f"density {density:g} of {self.total} weights is no less than the {left} that are "
                "active: the masks leave the search nothing to remove; lower it"
            )
        return left

    def _check_running(self) -> None:
        if self.epoch >= self.epochs:
            raise GemkernError(
                f"the search is over after its {self.epochs} epochs: take ticket(), or begin anew "
                "with more epochs"
            )

    def _check_numbers(self, what: str, values: list[Tensor]) -> None:
        """Refuse NaN in `values`, one tensor for each layer; reads the device once."""
        spoilt = torch.stack([value.isnan().any() for value in values]).tolist()
        for name, is_spoilt in zip(self.layers, spoilt, strict=True):
            if is_spoilt:
                raise GemkernError(
                    f"layer {name!r} has a {what} that is NaN at the end of epoch "
                    f"{self.epoch + 1}: lower the learning rate, or check the loss and the data"
                )

    def _require_gradient(self, arrived: bool) -> None:
        if not arrived:
            raise GemkernError(
                f"a step of epoch {self.epoch + 1} has no gradient to learn from: call "
                "loss.backward() before it, and let the loss depend on a layer that learns"
            )


def select_lowest(values: Sequence[Tensor], active: Sequence[Tensor], k: int) -> Any:
    """Return `ops.select_kth` of the k lowest of `values` among the active, over all layers."""
    return ops.select_kth(values, active, torch.tensor(k, device=active[0].device))


def remove_lowest(values: Sequence[Tensor], active: Sequence[Tensor], k: int) -> None:
    """Take exactly the k lowest of `values` out of the active, ties by lowest index."""
    ops.remove_lowest(values, active, *select_lowest(values, active, k))
