"""RigL: masks move to where the gradient of the dense network is largest.

Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, section 3, Algorithm 1.
Masks begin as those of `erk`. In each layer, of which n weights are active, an update is::

    f = alpha / 2 * (1 + cos(pi * t / T))
    q = q without its floor(f * n) smallest |w|
    q = q with the floor(f * n) places outside of it that have the largest |dL/dw_eff|
    w = w where q was true and is true, else 0

t counts epochs, and T is how many have updates.

Cost: in each step of all epochs a forward and a backward pass; in the T epochs one step in `every`
computes dense gradients, and moves masks in place of weights. Float32 momentum for each weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gemkern.tickets.dynamic import Dynamic
from gemkern.tickets.entry import Entry, Start, option


class RigL(Dynamic):
    """Train `model` under masks that move towards large gradients.

    Every `every` steps, one step moves masks in place of weights: the fraction
    alpha / 2 * (1 + cos(pi * t / T)) of each layer's weights is dropped (section 3 (2); t and T are
    the epochs that are finished, and those that have updates) and as many grow where the gradient
    of the loss is largest, which is made out at every place in that step alone. Other steps need no
    more than the active weights. The first update comes after `every` steps.

    Args:
        every: steps from one update to the next, which is one of them; at least 2.

    Others are those of `Dynamic`; so are errors.
    """

    _called = "rigl"
    _least_steps = 2
    # Which fraction the step that comes next moves; 0 if it is none that moves masks.
    _next_fraction = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return everything beside the model's state, and what the next step moves."""
        return {**super().state_dict(), "next_fraction": self._next_fraction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first.

        Raises:
            GemkernError: the search was accelerated, and the model does not have its masks.
        """
        self._plan(0.0)
        super().load_state_dict(state)
        self._plan(state["next_fraction"])

    def learn(self) -> None:
        """Move the weights, or the masks, by the gradients that are there, and clear them all.

        Raises:
            GemkernError: there are none.
        """
        if not self._next_fraction:
            super().learn()
            return
        gradients = [layer.weight.grad for layer in self.layers.values()]
        self._require_gradient(any(gradient is not None for gradient in gradients))
        sizes = [None if gradient is None else gradient.abs() for gradient in gradients]
        self._move(self._next_fraction, sizes)
        self.model.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """Count the step; let the next one see gradients at every place, if it moves masks.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        if self._next_fraction:
            self._plan(0.0)
            self._masks_moved()
        if self._is_due:
            self._plan(self._fraction())

    def _fraction(self) -> float:
        return 0.5 * self._alpha * (1.0 + math.cos(math.pi * self.epoch / self._moving_epochs))

    def _plan(self, fraction: float) -> None:
        """Let the next step move this fraction of the weights."""
        self._next_fraction = fraction
        if fraction:
            self._whole()
            # A step of whole layers, between changes of form, is none of those that are compared.
            self.forms.pause()
        for layer in self.layers.values():
            layer.override = _seen_everywhere if fraction else None

    def _close_epoch(self) -> bool:
        changed = super()._close_epoch()
        if self.epoch == self.epochs:
            self._plan(0.0)
        return changed


class _SeenEverywhere(torch.autograd.Function):
    """The weight under its mask; the gradient goes to every place."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, active: Tensor) -> Tensor:
        return torch.where(active, weight, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _seen_everywhere(layer: Any, dtype: torch.dtype) -> Tensor:
    return _SeenEverywhere.apply(layer.weight, layer.active).to(dtype)


@dataclass(frozen=True)
class RigLSettings:
    """The settings of RigL in a race."""

    rigl_init: str = option("kaiming_normal", "Initial weights of RigL.")
    rigl_epochs: int = option(150, "Epochs of RigL.", epochs=True)
    rigl_lr: float = option(0.1, "Learning rate of its first epoch.")
    rigl_every: int = option(100, "Steps between updates of its masks.")
    rigl_end: float = option(0.75, "Fraction of its epochs after which masks stay.")
    rigl_alpha: float = option(0.3, "Fraction of the weights that its first update moves.")


def rigged(start: Start) -> RigL:
    """Return the search of RigL, with as many weights as all tickets keep."""
    model, own = start.converted(), start.own
    return RigL(
        model,
        start.weights / start.total,
        own.rigl_epochs,
        alpha=own.rigl_alpha,
        every=own.rigl_every,
        end=own.rigl_end,
        seed=start.seed,
        lr=own.rigl_lr,
        weight_decay=start.weight_decay,
        schedule=start.schedule,
        model_seed=start.seed,
        name=start.name,
        accelerated=start.accelerated(),
    )


ENTRY = Entry(rigged, colour="#D62728", settings=RigLSettings, init="rigl_init")
