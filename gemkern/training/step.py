"""A training step as the device's work alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from gemkern.data import TrainingBatches
from gemkern.optim.effective import clear_leaf_grads


class Learner(Protocol):
    """The device's part of a method."""

    @property
    def capturable(self) -> bool: ...

    def learn(self) -> None: ...


class TrainingStep:
    """Take the next batch, and learn from it: the same work on the same tensors at every call.

    No number is read by the host. What changes from step to step, or from epoch to epoch, does so
    where it lies, so a captured graph of a call is worth a call.

    Args:
        model: maps images [B, C, H, W] to logits [B, classes].
        batches: where images and labels come from, on the model's device.
        autocast: the dtype of products and convolutions; None for that of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        learner: Learner,
        batches: TrainingBatches,
        autocast: torch.dtype | None,
    ) -> None:
        self._model = model
        self._learner = learner
        self._batches = batches
        self._autocast = autocast
        self._total = torch.zeros((), device=batches.device)

    @property
    def device(self) -> torch.device:
        return self._batches.device

    @property
    def capturable(self) -> bool:
        """Whether a captured graph of a call would be worth a call."""
        return self._learner.capturable

    @property
    def count(self) -> int:
        """How many steps there are in an epoch."""
        return len(self._batches)

    def begin(self, epoch: int) -> None:
        """Go to the first batch of `epoch`, and count its losses from zero."""
        self._batches.begin(epoch)
        self._total.zero_()

    def __call__(self) -> None:
        images, labels = self._batches.take()
        with autocasting(self.device, self._autocast):
            loss = F.cross_entropy(self._model(images), labels)
        loss.backward()
        self._learner.learn()
        self._total += loss.detach()

    def clear_gradients(self) -> None:
        """Forget the gradients that a call left when it was interrupted."""
        self._model.zero_grad(set_to_none=True)
        clear_leaf_grads(list(self._model.modules()))

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch that has ended; reads the device."""
        return self._total.item() / self.count


def autocasting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Return the context in which products and convolutions are computed in `dtype`, if given."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
