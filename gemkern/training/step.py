"""A training step as the device's work alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from gemkern.data import Batches
from gemkern.optim.effective import clear_leaf_grads


class Method(Protocol):
    """What the loop asks of a method: Gem-Miner, IMP, plain training of weights, ..."""

    @property
    def epochs(self) -> int: ...

    @property
    def capturable(self) -> bool:
        """Whether `learn` is worth a replay of its captured graph, as long as the run lasts."""

    def loss(self, outputs: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return what the step descends on, a scalar, from the model's outputs for `images`."""

    def learn(self) -> None:
        """Learn from the gradients that are there, and clear them: the device's part of a step."""

    def end_step(self) -> None:
        """Finish a step: the host's part."""

    def step(self) -> None:
        """Do both parts of a step, for loops other than this."""

    def end_epoch(self) -> None: ...


class TrainingStep:
    """Take the next batch, and learn from it: the same work on the same tensors at every call.

    `total` is the sum of the losses of the epoch so far, where it lies.

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
        method: Method,
        batches: Batches,
        autocast: torch.dtype | None,
    ) -> None:
        self._model = model
        self._method = method
        self._batches = batches
        self._autocast = autocast
        self.total = torch.zeros((), device=batches.device)

    @property
    def device(self) -> torch.device:
        return self._batches.device

    @property
    def capturable(self) -> bool:
        """Whether a captured graph of a call would be worth a call."""
        return self._method.capturable and self._batches.capturable

    @property
    def count(self) -> int:
        """How many steps there are in an epoch."""
        return len(self._batches)

    def begin(self, epoch: int, step: int = 0) -> None:
        """Go to the batch of `step` of `epoch`, and count losses from zero."""
        self._batches.begin(epoch, step)
        self.total.zero_()

    def __call__(self) -> None:
        images, labels = self._batches.take()
        with autocasting(self.device, self._autocast):
            loss = self._method.loss(self._model(images), labels, images)
        loss.backward()
        self._method.learn()
        self.total += loss.detach()

    def clear_gradients(self) -> None:
        """Forget the gradients that a call left when it was interrupted."""
        self._model.zero_grad(set_to_none=True)
        clear_leaf_grads(list(self._model.modules()))

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch that has ended; reads the device."""
        return self.total.item() / self.count


def autocasting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Return the context in which products and convolutions are computed in `dtype`, if given."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
