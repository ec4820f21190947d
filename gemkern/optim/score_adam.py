"""Adam over the scores of a whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gemkern import ops
from gemkern.optim.layers import Layers
from gemkern.optim.score_optimizer import ScoreOptimizer, check_range


class ScoreAdam(ScoreOptimizer):
    """Adam over scores: L2 apart from the loss, clamp to [0, 1], frozen ones stay 0.

    Kingma and Ba (2015), Algorithm 1. The step is `gemkern.ops.score_step_adam`. The step count is
    a tensor on the device, one for each group.

    Args:
        layers: a model, masked layers, or groups {"layers": model or layers, "lr": ..., ...}.
        lr: learning rate.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the root of the corrected second moment.
        l2: lambda of lambda * ||p||^2, whose gradient 2 * lambda * p is added here.
        fused: layers compute with effective weights that the step writes (`ScoreOptimizer`).

    Raises:
        GemkernError: a layer has no scores, or an option is out of its range.
    """

    def __init__(
        self,
        layers: Layers,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
        fused: bool = False,
    ) -> None:
        super().__init__(layers, {"lr": lr, "betas": betas, "eps": eps, "l2": l2}, fused)

    def _step_group(
        self,
        group: dict[str, Any],
        scores: list[Tensor],
        active: list[Tensor],
        grads: list[Tensor],
        weights: list[Tensor] | None,
        effective: list[Tensor] | None,
    ) -> None:
        beta1, beta2 = group["betas"]
        ops.score_step_adam(
            scores,
            active,
            grads,
            self._memory(scores, "exp_avg"),
            self._memory(scores, "exp_avg_sq"),
            weights,
            effective,
            lr=self._number(group, "lr"),
            l2=self._number(group, "l2"),
            step=self._count(group),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
        )

    def _count(self, group: dict[str, Any]) -> Tensor:
        """Return the number of this step of the group, kept in the state of its first scores."""
        first = group["params"][0]
        if "step" not in self.state[first]:
            self.state[first]["step"] = torch.zeros((), device=first.device)
        return self.state[first]["step"].add_(1)

    def _check(self, group: dict[str, Any]) -> None:
        check_range("lr", group["lr"], 0.0)
        check_range("beta1", group["betas"][0], 0.0, 1.0)
        check_range("beta2", group["betas"][1], 0.0, 1.0)
        check_range("eps", group["eps"], 0.0)
        check_range("l2", group["l2"], 0.0)
