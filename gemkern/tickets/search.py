"""What every search for a ticket has in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn import (
    accelerate,
    check_form_may_change,
    form_of,
    is_accelerated,
    pays,
    restore_form,
    why_never,
)
from gemkern.numbers import whole_number
from gemkern.optim import carrying, masked_layers, unwrapped, whole_shape
from gemkern.tickets.schedules import check_density
from gemkern.tickets.ticket import Ticket


class Search(ABC):
    """A method that finds a ticket while a network trains.

    The caller runs the loop: `step()` after each `loss.backward()`, `end_epoch()` after each epoch,
    and after `epochs` of them `ticket()`. A step has two parts: `learn()` is work of the device
    alone, which a captured graph may replay, `end_step()` is the host's. One method is one subclass
    in one file; it fills in `learn`, `_close_epoch` and `_found`, and `end_step` if it counts.

    Attributes:
        model: the converted model, searched in place, without what is wrapped around it.
        layers: its masked layers by qualified name.
        total: how many weights can be masked.
        epochs: how long the search lasts.
        epoch: how many epochs are finished.
    """

    def __init__(self, model: nn.Module, epochs: int, accelerated: bool) -> None:
        self.model = unwrapped(model)
        self.layers: dict[str, Any] = dict(masked_layers(self.model))
        if is_accelerated(self.model):
            check_form_may_change(list(self.layers.values()))
        self.total = sum(whole_shape(layer).numel() for layer in self.layers.values())
        self.epochs = whole_number("the number of epochs", epochs)
        self.epoch = 0
        self._steps_of_epoch = 0
        self._accelerated = accelerated
        self._said_dense = False

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
        return not self._accelerated

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

    def end_epoch(self) -> None:
        """Finish an epoch.

        Raises:
            GemkernError: the search is over, the epoch had no step, or a layer's numbers are NaN.
        """
        self._check_running()
        if self._steps_of_epoch == 0:
            raise GemkernError(
                f"epoch {self.epoch + 1} had no step to learn from: call step() after each "
                "loss.backward(), and check that there are batches"
            )
        optimizer = self._close_epoch()
        self._steps_of_epoch = 0
        # When all else is done: whatever fails here, nothing freezes twice.
        if self._accelerated:
            self._accelerate(optimizer)

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

    def _form(self) -> dict[str, Any]:
        """Return the form of the model, for the search's state."""
        return {**form_of(self.model), "weights_left": self.weights_left}

    def _restore_form(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Give the model the form of `state`; `optimizer`, whose state is loaded, follows.

        Raises:
            GemkernError: the model does not have the masks of `state`.
        """
        form = state.get("form")
        if form is None:
            return
        if form["compressed"] and form["weights_left"] != self.weights_left:
            raise GemkernError(
                f"the search to continue had {form['weights_left']} weights left and the model has "
                f"{self.weights_left}: load the model's state first, then the search's"
            )
        with carrying(optimizer, self.layers.values()):
            restore_form(self.model, form)

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

    @abstractmethod
    def _close_epoch(self) -> torch.optim.Optimizer | None:
        """Finish an epoch; where weights were frozen, return the optimiser of those that learn."""

    @abstractmethod
    def _found(self) -> Ticket: ...

    def _accelerate(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Accelerate the model, or warn, once, that the search goes on as it is."""
        try:
            reason = self._compress(optimizer)
        except Exception as error:
            reason = str(error)
        if reason and not self._said_dense:
            self._said_dense = True
            warnings.warn(
                f"the search is not accelerated ({reason}): mend that, or leave accelerated=False",
                stacklevel=3,
            )

    def _compress(self, optimizer: torch.optim.Optimizer | None) -> str:
        """Compress the layers if weights were frozen and it pays; return why it never will, or "".

        What `optimizer` remembers follows.
        """
        if optimizer is None or self.epoch == self.epochs:
            return ""
        if not pays(self.model):
            return why_never(self.model)
        with carrying(optimizer, self.layers.values()):
            accelerate(self.model)
        return ""

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
