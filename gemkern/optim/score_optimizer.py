"""What the optimisers of scores have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.optim.layers import Layers, MaskedLayer, grouped

LARGEST = torch.finfo(torch.float32).max


class ScoreOptimizer(torch.optim.Optimizer):
    """A PyTorch optimiser whose parameters are the scores of masked layers.

    Each layer's `active` is read when a step is taken, so freezing, and moving the model, count at
    once. A layer whose scores have no gradient is left alone.
    """

    def __init__(self, layers: Layers, defaults: dict[str, Any]) -> None:
        self._layer_of: dict[Tensor, MaskedLayer] = {}
        groups = []
        for members, options in grouped(layers):
            groups.append({"params": [self._scores_of(layer) for layer in members], **options})
        super().__init__(groups, defaults)
        for group in self.param_groups:
            self._check(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the scores by their gradients; return what `closure` returned, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            scores = [score for score in group["params"] if score.grad is not None]
            if scores:
                active = [self._layer_of[score].active for score in scores]
                self._step_group(group, scores, active, [score.grad for score in scores])
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_layer_of": self._layer_of}

    @abstractmethod
    def _step_group(
        self,
        group: dict[str, Any],
        scores: list[Tensor],
        active: list[Tensor],
        grads: list[Tensor],
    ) -> None: ...

    @abstractmethod
    def _check(self, group: dict[str, Any]) -> None: ...

    def _memory(self, scores: list[Tensor], name: str) -> list[Tensor]:
        """Return what the optimiser remembers of `scores` under `name`, zero at first."""
        for score in scores:
            if name not in self.state[score]:
                self.state[score][name] = torch.zeros_like(score)
        return [self.state[score][name] for score in scores]

    def _scores_of(self, layer: MaskedLayer) -> Tensor:
        if layer.scores is None:
            raise GemkernError(
                f"{layer} has no scores to learn: convert the model with "
                "gemkern.convert(model, scores=True)"
            )
        self._layer_of[layer.scores] = layer
        return layer.scores


def check_range(name: str, value: Any, low: float, high: float = LARGEST) -> None:
    """Check that an option lies in [low, high); a tensor is taken on trust, unread.

    Raises:
        GemkernError: it does not.
    """
    if not isinstance(value, Tensor) and not low <= value < high:
        bounds = f"at least {low} that float32 holds" if high == LARGEST else f"in [{low}, {high})"
        raise GemkernError(f"the optimiser's {name} is {value}: give a number {bounds}")


def check_momentum(momentum: float, nesterov: bool) -> None:
    """Check that the momentum lies in [0, 1), and that nesterov has one to look ahead by.

    Raises:
        GemkernError: it does not.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    if nesterov and momentum == 0:
        raise GemkernError("the optimiser's nesterov needs a momentum: give one above 0")
