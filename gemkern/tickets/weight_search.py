"""What searches have in common in which weights learn, under masks that change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.nn import decelerate
from gemkern.numbers import whole_number
from gemkern.optim import MaskedSGD, carrying
from gemkern.optim.effective import leaf_grad
from gemkern.tickets.search import Search
from gemkern.tickets.state import zero_masked_weights
from gemkern.training.weights import WeightTraining


class WeightSearch(Search):
    """A search that trains the weights of `model` (`gemkern.convert(model)`) by SGD.

    A subclass changes the layers' `active` where it closes an epoch or a step, between `_whole()`
    and `_masks_changed()`; its `__init__` ends with `_begin(self._training.optimizer, ...)`.

    Args:
        model: a converted model without scores.
        epochs: length of the training, over which the schedule is stretched.
        method: the name of the search, for messages and the ticket.
        lr, momentum, weight_decay, schedule: of `gemkern.training.WeightTraining`.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.

    Raises:
        GemkernError: the model has scores, or a plan that cannot be.
    """

    optimizer: MaskedSGD

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        method: str,
        lr: float,
        momentum: float,
        weight_decay: float,
        schedule: str,
        model_seed: int | None,
        name: str | None,
    ) -> None:
        super().__init__(model, epochs)
        for layer_name, layer in self.layers.items():
            if layer.scores is not None:
                raise GemkernError(
                    f"layer {layer_name!r} learns scores where {method} learns weights: convert "
                    "the model with gemkern.convert(model)"
                )
        self._method, self._name = method, name
        self._model_seed = None if model_seed is None else whole_number("the seed", model_seed)
        self._steps = 0
        self._training = WeightTraining(
            model,
            self.epochs,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
        )

    @property
    def capturable(self) -> bool:
        """Whether `learn` works on the same tensors, from the same numbers, to the end."""
        return super().capturable and self._training.capturable

    def state_dict(self) -> dict[str, Any]:
        """Return everything beside the model's state: place, training and forms."""
        return {
            "epoch": self.epoch,
            "steps": self._steps,
            "steps_of_epoch": self._steps_of_epoch,
            "training": self._training.state_dict(),
            "forms": self.forms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first.

        Raises:
            GemkernError: the search was accelerated, and the model does not have its masks.
        """
        self.epoch = state["epoch"]
        self._steps, self._steps_of_epoch = state["steps"], state["steps_of_epoch"]
        self._training.load_state_dict(state["training"])
        self.forms.load_state_dict(state["forms"])

    def learn(self) -> None:
        """Move the weights by the gradients that are there, and clear all of the model's.

        Raises:
            GemkernError: there are none.
        """
        self._require_gradient(
            any(
                layer.weight.grad is not None or leaf_grad(layer) is not None
                for layer in self.layers.values()
            )
        )
        self._training.learn()

    def end_step(self) -> None:
        """Count the step.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        self._steps += 1

    def _whole(self) -> None:
        """Let all layers be whole, with what the optimiser remembers of them."""
        with carrying(self.optimizer, self.layers.values()):
            decelerate(self.model)

    def _zero_what_is_masked(self) -> None:
        """Write +0.0 to every weight, and its momentum, that is not active, and tell of it."""
        zero_masked_weights(self.model)
        with torch.no_grad():
            for layer in self.layers.values():
                momentum = self.optimizer.state.get(layer.weight, {}).get("momentum_buffer")
                if momentum is not None:
                    momentum.masked_fill_(~layer.active, 0.0)
        self.optimizer.refresh()

    def _magnitudes(self) -> list[Tensor]:
        return [layer.weight.detach().abs() for layer in self.layers.values()]
