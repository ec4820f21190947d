"""One loop for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Protocol

import torch
from torch import nn

from gemkern.data import Dataset, Split, TrainingBatches, eval_batches
from gemkern.errors import GemkernError
from gemkern.training.graphs import ways_to_run
from gemkern.training.numerics import reproducible_numerics
from gemkern.training.step import TrainingStep, autocasting


class Method(Protocol):
    """What the loop asks of a method: Gem-Miner, IMP, plain training of weights, ..."""

    @property
    def epochs(self) -> int: ...

    @property
    def capturable(self) -> bool:
        """Whether `learn` is worth a replay of its captured graph, as long as the run lasts."""

    def learn(self) -> None:
        """Learn from the gradients that are there, and clear them: the device's part of a step."""

    def end_step(self) -> None:
        """Finish a step: the host's part."""

    def step(self) -> None:
        """Do both parts of a step, for loops other than this."""

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
    autocast: torch.dtype | None = None,
    graph: bool = True,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> None:
    """Train `model` on the training split for `method.epochs` epochs.

    The same seed gives the same bits on one machine, with graphs or without. Nothing is read by the
    host inside a step; the loss is summed on the device and read once an epoch. `on_epoch` runs
    outside the timed part.

    Args:
        model: maps images [B, C, H, W] to logits [B, classes]; on the device of `dataset`. With
            `graph`, its forward pass may not draw random numbers on the host.
        method: learns after each backward pass and hears of the end of each step and epoch.
        batch_size: images a step.
        seed: of the data order, crops and flips; these are a function of seed and epoch.
        autocast: the dtype of products and convolutions, such as torch.bfloat16; None for that of
            the weights.
        graph: on a CUDA device, capture the step once and replay it, if that is possible.

    Raises:
        GemkernError: the loss became infinite or NaN, or the batch is larger than the split.
    """
    batches = TrainingBatches(
        dataset.train,
        batch_size,
        seed=seed,
        mean=dataset.mean,
        std=dataset.std,
        augment=dataset.augment,
    )
    step = TrainingStep(model, method, batches, autocast)
    runs = ways_to_run(step) if graph else repeat(step)
    with reproducible_numerics():
        for epoch in range(method.epochs):
            model.train()
            started = _now(dataset)
            step.begin(epoch)
            for run in islice(runs, len(batches)):
                run()
                method.end_step()
            loss = step.mean_loss()
            if not math.isfinite(loss):
                raise GemkernError(
                    f"the loss is {loss} in epoch {epoch + 1} of {method.epochs}: "
                    "lower the learning rate or check the data"
                )
            method.end_epoch()
            on_epoch(EpochStats(epoch + 1, loss, _now(dataset) - started, len(batches)))


def evaluate(
    model: nn.Module,
    split: Split,
    dataset: Dataset,
    *,
    batch_size: int = 500,
    autocast: torch.dtype | None = None,
) -> float:
    """Return the fraction of `split` that `model` classifies correctly, in evaluation mode.

    Args:
        autocast: as in `train`.
    """
    was_training = model.training
    model.eval()
    device = split.images.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode(), autocasting(device, autocast):
        for images, labels in eval_batches(split, batch_size, mean=dataset.mean, std=dataset.std):
            correct += (model(images).argmax(1) == labels).sum()
    model.train(was_training)
    return correct.item() / len(split)


def _now(dataset: Dataset) -> float:
    if dataset.train.images.is_cuda:
        torch.cuda.synchronize(dataset.train.images.device)
    return time.perf_counter()
