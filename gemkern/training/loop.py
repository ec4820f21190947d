"""One loop for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from gemkern.data import Dataset, Split, batches, eval_batches
from gemkern.errors import GemkernError
from gemkern.training.numerics import reproducible_numerics


class Method(Protocol):
    """What the loop asks of a method: Gem-Miner, IMP, plain training of weights, ..."""

    @property
    def epochs(self) -> int: ...

    def step(self) -> None: ...

    def end_epoch(self) -> None: ...


@dataclass(frozen=True)
class EpochStats:
    """One epoch: its number from 1, mean loss, seconds of training and number of steps."""

    epoch: int
    loss: float
    seconds: float
    steps: int


def train(
    model: nn.Module,
    method: Method,
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> None:
    """Train `model` on the training split for `method.epochs` epochs.

    The same seed gives the same bits on one machine. Nothing is read by the host inside a step; the
    loss is summed on the device and read once an epoch. `on_epoch` runs outside the timed part.

    Args:
        model: maps images [B, C, H, W] to logits [B, classes]; on the device of `dataset`.
        method: receives `step()` after each backward pass and `end_epoch()` after each epoch.
        batch_size: images a step.
        seed: of the data order, crops and flips; these are a function of seed and epoch.

    Raises:
        GemkernError: the loss became infinite or NaN, or the batch is larger than the split.
    """
    with reproducible_numerics():
        for epoch in range(method.epochs):
            model.train()
            started = _now(dataset)
            loss, steps = _train_epoch(model, method, dataset, batch_size, seed, epoch)
            if not math.isfinite(loss):
                raise GemkernError(
                    f"the loss is {loss} in epoch {epoch + 1} of {method.epochs}: "
                    "lower the learning rate or check the data"
                )
            method.end_epoch()
            on_epoch(EpochStats(epoch + 1, loss, _now(dataset) - started, steps))


def _train_epoch(
    model: nn.Module, method: Method, dataset: Dataset, batch_size: int, seed: int, epoch: int
) -> tuple[float, int]:
    total = torch.zeros((), device=dataset.train.images.device)
    steps = 0
    for images, labels in batches(
        dataset.train,
        batch_size,
        seed=seed,
        epoch=epoch,
        mean=dataset.mean,
        std=dataset.std,
        augment=dataset.augment,
    ):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        method.step()
        total += loss.detach()
        steps += 1
    return total.item() / steps, steps


def evaluate(model: nn.Module, split: Split, dataset: Dataset, *, batch_size: int = 500) -> float:
    """Return the fraction of `split` that `model` classifies correctly, in evaluation mode."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=split.images.device)
    with torch.inference_mode():
        for images, labels in eval_batches(split, batch_size, mean=dataset.mean, std=dataset.std):
            correct += (model(images).argmax(1) == labels).sum()
    model.train(was_training)
    return correct.item() / len(split)


def _now(dataset: Dataset) -> float:
    if dataset.train.images.is_cuda:
        torch.cuda.synchronize(dataset.train.images.device)
    return time.perf_counter()
