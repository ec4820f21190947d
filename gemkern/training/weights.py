"""Training the weights, under whatever masks the model has."""

from __future__ import annotations

from typing import Any

from torch import nn

from gemkern.errors import GemkernError
from gemkern.optim import MaskedSGD
from gemkern.training.rates import rate


class WeightTraining:
    """SGD over the weights of `model` for `epochs` epochs; masked weights stay exactly zero.

    The one way in which weights learn here: a dense network, every round of IMP, and the finetuning
    of every ticket. Call `step()` after each `loss.backward()` and `end_epoch()` after each epoch.

    Args:
        model: any module; its masked layers train under `active`, everything else freely.
        epochs: length of the run, in epochs; the schedule is stretched over it.
        lr, momentum, weight_decay, nesterov: of SGD.
        schedule: "cosine", "multistep" or "constant" (`gemkern.training.rates`).

    Raises:
        GemkernError: fewer than one epoch, or an unknown schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
        schedule: str = "cosine",
    ) -> None:
        if epochs < 1:
            raise GemkernError(f"training lasts {epochs} epochs: give at least 1")
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._nesterov = nesterov
        self._rate = rate(schedule)
        self.restart()

    def restart(self) -> None:
        """Begin anew: no momentum, the first epoch's learning rate."""
        self.optimizer = MaskedSGD(
            self.model,
            lr=self.lr,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            nesterov=self._nesterov,
        )
        self._enter(0)

    def step(self) -> None:
        """Take one SGD step from the gradients that are there, and clear them."""
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def end_epoch(self) -> None:
        """Move to the next epoch's learning rate."""
        self._enter(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs, beside the model's own state, to continue to the same bits."""
        return {"epoch": self.epoch, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._enter(state["epoch"])

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._rate(epoch, self.epochs)
