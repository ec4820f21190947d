"""SGD over the scores of a whole model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gemkern import ops
from gemkern.optim.layers import Layers
from gemkern.optim.score_optimizer import ScoreOptimizer, check_momentum, check_range


class ScoreSGD(ScoreOptimizer):
    """SGD with momentum over scores: L2 apart from the loss, clamp to [0, 1], frozen ones stay 0.

    Rare Gems (NeurIPS 2022), Algorithm 1. The step is `gemkern.ops.score_step_sgd`.

    Args:
        layers: a model, masked layers, or groups {"layers": model or layers, "lr": ..., ...}.
        lr: learning rate.
        momentum: in [0, 1).
        l2: lambda of lambda * ||p||^2, whose gradient 2 * lambda * p is added here.
        nesterov: look ahead by one momentum step.
        fused: layers compute with effective weights that the step writes (`ScoreOptimizer`).

    Raises:
        GemkernError: a layer has no scores, or an option is out of its range.
    """

    def __init__(
        self,
        layers: Layers,
        lr: float = 0.1,
        momentum: float = 0.9,
        l2: float = 0.0,
        nesterov: bool = False,
        fused: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "l2": l2, "nesterov": nesterov}
        super().__init__(layers, options, fused)

    def _step_group(
        self,
        group: dict[str, Any],
        scores: list[Tensor],
        active: list[Tensor],
        grads: list[Tensor],
        weights: list[Tensor] | None,
        effective: list[Tensor] | None,
    ) -> None:
        ops.score_step_sgd(
            scores,
            active,
            grads,
            self._memory(scores, "momentum_buffer"),
            weights,
            effective,
            lr=self._number(group, "lr"),
            l2=self._number(group, "l2"),
            momentum=group["momentum"],
            nesterov=group["nesterov"],
        )

    def _check(self, group: dict[str, Any]) -> None:
        check_range("lr", group["lr"], 0.0)
        check_momentum(group["momentum"], group["nesterov"])
        check_range("l2", group["l2"], 0.0)
