"""What acceleration saved: accelerated steps beside dense ones of the same state and machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.experiments.records import Phase, Saving
from gemkern.nn import decelerate, is_accelerated
from gemkern.training import EpochStats, Method
from gemkern.training.numerics import reproducible_numerics

WARM_UP, ROUNDS = 2, 10


class EpochTimes:
    """The epochs of a search, dense and accelerated ones apart.

    A search is dense until enough is frozen, and what dense steps cost does not depend on how much
    that is: the epochs before stand for those that were saved.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._accelerated: list[EpochStats] = []
        self._dense: list[EpochStats] = []
        self._now = self._of_model()

    def add(self, stats: EpochStats) -> None:
        """Add an epoch that has just ended; its end may have switched the model over."""
        self._now.append(stats)
        self._now = self._of_model()

    @property
    def steps(self) -> int:
        """How many steps were accelerated."""
        return sum(epoch.steps for epoch in self._accelerated)

    def saving(self, method: str, seed: int, phase: Phase) -> Saving | None:
        """Return what was saved; None without epochs of both kinds."""
        if not self._accelerated or not self._dense:
            return None
        seconds = sum(epoch.seconds for epoch in self._accelerated)
        dense = median(epoch.seconds / epoch.steps for epoch in self._dense)
        return Saving(method, seed, phase, self.steps, 1e3 * dense, 1e3 * seconds / self.steps)

    def _of_model(self) -> list[EpochStats]:
        return self._accelerated if is_accelerated(self._model) else self._dense


def step_times(
    model: nn.Module, training: Callable[[nn.Module], Method], images: Tensor, labels: Tensor
) -> tuple[float, float]:
    """Return the milliseconds of a training step of an accelerated model, dense and accelerated.

    Medians of steps of two copies that take turns; neither `model` nor a random number is touched.
    """
    copies = decelerate(copy.deepcopy(model)), copy.deepcopy(model)
    contenders = [(one, training(one)) for one in copies]
    times: list[tuple[float, ...]] = []
    with reproducible_numerics(), torch.random.fork_rng(devices=()):
        for _ in range(WARM_UP + ROUNDS):
            times.append(tuple(_step(*one, images, labels) for one in contenders))
    dense, accelerated = (median(column) for column in zip(*times[WARM_UP:], strict=True))
    return dense, accelerated


def _step(model: nn.Module, method: Method, images: Tensor, labels: Tensor) -> float:
    """Take one step and return its milliseconds."""
    started = time.perf_counter()
    F.cross_entropy(model(images), labels).backward()
    method.step()
    return 1e3 * (time.perf_counter() - started)
