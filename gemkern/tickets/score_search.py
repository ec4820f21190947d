"""What searches have in common that learn scores over fixed weights, by masks of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.nn.layers import Override
from gemkern.numbers import whole_number
from gemkern.tickets.search import Search
from gemkern.tickets.ticket import Ticket
from gemkern.training.rates import rate, set_lr
from gemkern.training.weights import on_cuda


class ScoreSearch(Search):
    """A search that learns the scores of `model` (`gemkern.convert(model, scores=True)`).

    While it lasts every weight is active, and overrides say what the layers compute with: no copy
    of the model keeps them, and no layer runs sparse. At the end the masks become the layers'
    `active`, all scores become 1 and the overrides go, so that the model, and what is copied of it,
    computes with the mask of the ticket. Weights and other parameters are never touched;
    batch-norm statistics are those of the search.

    A subclass fills in `learn`, `_masks`, `_override` and `_refresh`; its `__init__` ends with
    `_enter(0)` and `_begin(self.optimizer, False)`.

    To resume, make the same model and search first and then load both states.

    Args:
        model: a converted model with scores, all weights active.
        epochs: length of the search, over which the schedule is stretched.
        method: the name of the search, for messages and the ticket.
        lr: learning rate of the first epoch.
        schedule: of the learning rate, a name in `gemkern.training.rates`.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.

    Raises:
        GemkernError: the model has no scores or masked weights, an unknown schedule, or fewer than
            one epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        method: str,
        lr: float,
        schedule: str,
        model_seed: int | None,
        name: str | None,
    ) -> None:
        super().__init__(model, whole_number("the number of epochs", epochs, least=1))
        for layer_name, layer in self.layers.items():
            if layer.scores is None:
                raise GemkernError(
                    f"layer {layer_name!r} has no scores to learn: convert the model with "
                    "gemkern.convert(model, scores=True)"
                )
        left = super().weights_left
        if left < self.total:
            raise GemkernError(
                f"{left} of the {self.total} weights are active and {method} chooses from all: "
                "give it a model whose masks keep everything"
            )
        self._method, self._name = method, name
        self._model_seed = None if model_seed is None else whole_number("the seed", model_seed)
        self._lr, self._factor = lr, rate(schedule)
        self._on_cuda = on_cuda(self.model)

    @property
    def capturable(self) -> bool:
        """Whether `learn` works on the same tensors, from the same numbers, to the end."""
        return super().capturable and self._on_cuda

    @property
    def weights_left(self) -> int:
        """How many weights the masks keep now; reads the device."""
        return int(torch.stack([mask.sum() for mask in self.masks().values()]).sum())

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """Return the mask of each layer as it is now, bool, by qualified name."""
        if self.epoch < self.epochs:
            return dict(zip(self.layers, self._masks(), strict=True))
        return {name: layer.active.clone() for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search and the optimiser's state; scores are the model's."""
        return {
            "epoch": self.epoch,
            "steps_of_epoch": self._steps_of_epoch,
            "optimizer": self.optimizer.state_dict(),
            "forms": self.forms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first, after the search was made."""
        self._steps_of_epoch = state["steps_of_epoch"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.forms.load_state_dict(state["forms"])
        self._enter(state["epoch"])

    @abstractmethod
    def _masks(self) -> list[Tensor]:
        """Return the mask of each layer, made anew from its scores."""

    @abstractmethod
    def _override(self, index: int) -> Override:
        """Return what the layer of a number computes with while the search lasts."""

    @abstractmethod
    def _refresh(self) -> None:
        """Let all follow that follows from the scores and the place in the search."""

    def _scores(self) -> list[Tensor]:
        return [layer.scores.detach() for layer in self.layers.values()]

    def _has_gradients(self) -> bool:
        return any(layer.scores.grad is not None for layer in self.layers.values())

    def _start(self) -> list[Tensor]:
        return self._scores()

    def _join_ranks(self) -> None:
        super()._join_ranks()
        self._refresh()

    def _close_epoch(self) -> bool:
        self._check_numbers("score", self._scores())
        self._enter(self.epoch + 1)
        is_over = self.epoch == self.epochs
        if is_over:
            self._settle()
        return is_over

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        set_lr(self.optimizer, self._lr * self._factor(epoch, self.epochs))
        for index, layer in enumerate(self.layers.values()):
            layer.override = self._override(index) if epoch < self.epochs else None
        self._refresh()

    @torch.no_grad()
    def _settle(self) -> None:
        """Let the layers compute with the masks of the end by themselves."""
        for layer, mask in zip(self.layers.values(), self._masks(), strict=True):
            layer.active.copy_(mask)
            layer.scores.fill_(1.0)

    def _found(self) -> Ticket:
        return Ticket.from_model(
            self.model, method=self._method, name=self._name, seed=self._model_seed
        )
