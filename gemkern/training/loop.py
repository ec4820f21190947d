"""One loop for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from typing import Protocol

import torch
from torch import nn

from gemkern.data import Dataset, Split, TrainingBatches, eval_batches
from gemkern.errors import GemkernError
from gemkern.training.graphs import Call, in_turn, ways_to_run
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


@dataclass(frozen=True)
class Trainee:
    """A model in training.

    Attributes:
        model: maps images [B, C, H, W] to logits [B, classes]; on the device of the data set. Where
            steps are captured, its forward pass may not draw random numbers on the host.
        method: learns after each backward pass and hears of the end of each step and epoch.
        seed: of the data order, crops and flips; these are a function of seed and epoch.
        on_epoch: hears of each epoch, outside the timed part.
    """

    model: nn.Module
    method: Method
    seed: int
    on_epoch: Callable[[EpochStats], None] = lambda stats: None


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

    The same seed gives the same bits on one machine, with graphs or without, in the same `Forms`.
    Nothing is read by the host inside a step; the loss is summed on the device and read once an
    epoch.

    Args:
        model, method, seed, on_epoch: as in `Trainee`.
        batch_size: images a step.
        autocast: the dtype of products and convolutions, such as torch.bfloat16; None for that of
            the weights.
        graph: on a CUDA device, capture the step once and replay it, if that is possible.

    Raises:
        GemkernError: the loss became infinite or NaN, or the batch is larger than the split.
    """
    trainee = Trainee(model, method, seed, on_epoch)
    train_together([trainee], dataset, batch_size=batch_size, autocast=autocast, graph=graph)


def train_together(
    trainees: Sequence[Trainee],
    dataset: Dataset,
    *,
    batch_size: int,
    autocast: torch.dtype | None = None,
    graph: bool = True,
) -> None:
    """Train several models as `train` trains one: a step of each, then the next step of each.

    On a CUDA device the steps of all are captured as one graph, in which they run side by side: a
    small network alone leaves most of the device idle. Models that draw no random numbers learn to
    the same bits as alone. The seconds of an epoch are each one's equal share.

    Raises:
        GemkernError: as `train`, or the methods do not last equally long.
    """
    lengths = sorted({trainee.method.epochs for trainee in trainees})
    if len(lengths) != 1:
        raise GemkernError(
            f"methods that last {lengths} epochs cannot be trained together: "
            "give one at least, and all the same length"
        )
    steps = [_step(trainee, dataset, batch_size, autocast) for trainee in trainees]
    runs = ways_to_run(steps) if graph else repeat(partial(in_turn, steps))
    with reproducible_numerics():
        for epoch in range(*lengths):
            started = _now(dataset)
            losses = _train_epoch(trainees, steps, runs, epoch)
            for trainee, loss in zip(trainees, losses, strict=True):
                _check_loss(loss, epoch, trainee.method.epochs)
                trainee.method.end_epoch()
            seconds = (_now(dataset) - started) / len(trainees)
            for trainee, loss, step in zip(trainees, losses, steps, strict=True):
                trainee.on_epoch(EpochStats(epoch + 1, loss, seconds, step.count))


def _step(
    trainee: Trainee, dataset: Dataset, batch_size: int, autocast: torch.dtype | None
) -> TrainingStep:
    batches = TrainingBatches(
        dataset.train,
        batch_size,
        seed=trainee.seed,
        mean=dataset.mean,
        std=dataset.std,
        augment=dataset.augment,
    )
    return TrainingStep(trainee.model, trainee.method, batches, autocast)


def _train_epoch(
    trainees: Sequence[Trainee], steps: Sequence[TrainingStep], runs: Iterator[Call], epoch: int
) -> list[float]:
    """Return the mean loss of each trainee."""
    for trainee, step in zip(trainees, steps, strict=True):
        trainee.model.train()
        step.begin(epoch)
    for run in islice(runs, steps[0].count):
        run()
        for trainee in trainees:
            trainee.method.end_step()
    return [step.mean_loss() for step in steps]


def _check_loss(loss: float, epoch: int, epochs: int) -> None:
    if not math.isfinite(loss):
        raise GemkernError(
            f"the loss is {loss} in epoch {epoch + 1} of {epochs}: "
            "lower the learning rate or check the data"
        )


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
