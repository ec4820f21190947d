"""One loop for every method, which can be left after any step and gone on with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import distributed, nn

from gemkern.data import Data, Share
from gemkern.data.batches import WHOLE
from gemkern.errors import GemkernError
from gemkern.training.graphs import Call, in_turn, ways_to_run
from gemkern.training.numerics import reproducible_numerics
from gemkern.training.randomness import random_state, restore_random_state
from gemkern.training.step import Method, TrainingStep, autocasting


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
    data: Data,
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
        data, batch_size, autocast, graph: as in `Training`.

    Raises:
        GemkernError: the loss became infinite or NaN, or the batch is larger than the split.
    """
    trainee = Trainee(model, method, seed, on_epoch)
    train_together([trainee], data, batch_size=batch_size, autocast=autocast, graph=graph)


def train_together(
    trainees: Sequence[Trainee],
    data: Data,
    *,
    batch_size: int,
    autocast: torch.dtype | None = None,
    graph: bool = True,
) -> None:
    """Train several models as `train` trains one: `Training`, from its beginning to its end.

    Raises:
        GemkernError: as `train`, or the methods do not last equally long.
    """
    Training(trainees, data, batch_size=batch_size, autocast=autocast, graph=graph).run()


class Training:
    """Several models in training: a step of each, then the next step of each.

    On a CUDA device the steps of all are captured as one graph, in which they run side by side: a
    small network alone leaves most of the device idle. Models that draw no random numbers learn to
    the same bits as alone. The seconds of an epoch are each one's equal share.

    To go on with a training, make it anew, load the states of the models and the methods, then
    this one's: the place in the epoch, what was measured of it, and the random numbers to come.

    Args:
        batch_size: images a step; that of the loader where `data` are loaders.
        autocast: the dtype of products and convolutions, such as torch.bfloat16; None for that of
            the weights.
        graph: on a CUDA device, capture the step once and replay it, if that is possible.
        share: which part of each batch is trained on here.
        clock: returns the seconds by which epochs are timed.

    Attributes:
        epoch, step: how many epochs are finished, and how many steps of the next.

    Raises:
        GemkernError: the methods do not last equally long, or there is no batch.
    """

    def __init__(
        self,
        trainees: Sequence[Trainee],
        data: Data,
        *,
        batch_size: int,
        autocast: torch.dtype | None = None,
        graph: bool = True,
        share: Share = WHOLE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        lengths = sorted({trainee.method.epochs for trainee in trainees})
        if len(lengths) != 1:
            raise GemkernError(
                f"methods that last {lengths} epochs cannot be trained together: "
                "give one at least, and all the same length"
            )
        self._trainees, (self._epochs,), self._share = trainees, lengths, share
        self._clock = clock
        self._steps = [
            TrainingStep(
                trainee.model,
                trainee.method,
                data.training(batch_size, trainee.seed, share),
                autocast,
            )
            for trainee in trainees
        ]
        self._runs: Iterator[Call] = (
            ways_to_run(self._steps) if graph else repeat(partial(in_turn, self._steps))
        )
        self.epoch = self.step = 0
        self._seconds = 0.0
        self._loaded: dict[str, Any] | None = None

    def run(
        self,
        is_due: Callable[[], bool] = lambda: False,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the end.

        Args:
            is_due: asked after each step; says whether `keep` is to be called before the next.
            keep: called then and after each epoch, outside the timed part; it may raise to stop.

        Raises:
            GemkernError: the loss became infinite or NaN.
        """
        with reproducible_numerics():
            while self.epoch < self._epochs:
                self._train_epoch(is_due, keep)
                keep()

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on, beside the states of the models and the methods, to the same bits.

        Reads the device.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self._seconds,
            "losses": [step.total.cpu() for step in self._steps],
            "random": random_state(self._steps[0].device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, on models and methods whose own states are loaded."""
        self.epoch, self.step, self._seconds = state["epoch"], state["step"], state["seconds"]
        self._loaded = state

    def _train_epoch(self, is_due: Callable[[], bool], keep: Callable[[], None]) -> None:
        started = self._now()
        self._begin_epoch()
        while self.step < self._steps[0].count:
            if self.step and is_due():
                self._seconds += self._now() - started
                keep()
                started = self._now()
            next(self._runs)()
            for trainee in self._trainees:
                trainee.method.end_step()
            self.step += 1
        losses = self._of_all_ranks([step.mean_loss() for step in self._steps])
        for trainee, loss in zip(self._trainees, losses, strict=True):
            _check_loss(loss, self.epoch, self._epochs)
            trainee.method.end_epoch()
        seconds = (self._seconds + self._now() - started) / len(self._trainees)
        self.epoch, self.step, self._seconds = self.epoch + 1, 0, 0.0
        for trainee, loss, step in zip(self._trainees, losses, self._steps, strict=True):
            trainee.on_epoch(EpochStats(self.epoch, loss, seconds, step.count))

    def _begin_epoch(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None and self.step == 0:
            restore_random_state(loaded["random"])
        for trainee, step in zip(self._trainees, self._steps, strict=True):
            trainee.model.train()
            step.begin(self.epoch, self.step)
        if loaded is not None and self.step > 0:
            for step, total in zip(self._steps, loaded["losses"], strict=True):
                step.total.copy_(total)
            # On the way to the batch numbers may have been drawn that had been drawn before.
            restore_random_state(loaded["random"])

    def _of_all_ranks(self, losses: list[float]) -> list[float]:
        """Return the mean of each loss over the shares of a batch."""
        if self._share == WHOLE:
            return losses
        summed = torch.tensor(losses, dtype=torch.float64, device=self._steps[0].device)
        distributed.all_reduce(summed)
        return (summed / self._share.ranks).tolist()

    def _now(self) -> float:
        device = self._steps[0].device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return self._clock()


def _check_loss(loss: float, epoch: int, epochs: int) -> None:
    if not math.isfinite(loss):
        raise GemkernError(
            f"the loss is {loss} in epoch {epoch + 1} of {epochs}: "
            "lower the learning rate or check the data"
        )


def evaluate(
    model: nn.Module,
    data: Data,
    split: str = "test",
    *,
    batch_size: int = 500,
    autocast: torch.dtype | None = None,
) -> float:
    """Return the fraction of a split that `model` classifies correctly, in evaluation mode.

    Args:
        split: "train", "validation" or "test".
        autocast: as in `Training`.
    """
    was_training = model.training
    model.eval()
    correct, count = [], 0
    with torch.inference_mode():
        for images, labels in data.evaluation(split, batch_size):
            with autocasting(images.device, autocast):
                correct.append((model(images).argmax(1) == labels).sum())
            count += len(labels)
    model.train(was_training)
    return int(torch.stack(correct).sum()) / count
