"""Sign-In: masked weights learn as products of two factors, whose signs change more easily.

Gadhikar, Jacobs, Zhou and Burkholz, "Sign-In to the Lottery: Reparameterized Sparse Training",
NeurIPS 2025 (arXiv 2504.12801). A weight is theta = m * w with m^2 - w^2 = beta at first. Training
moves that difference towards 0, where a sign cannot change; so it is set to beta again from time to
time (`rescale`). How often was not at hand: that is the caller's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.optim.layers import Layers, MaskedLayer
from gemkern.optim.masked_sgd import MaskedSGD

# Names in an optimiser's state: the factors, each with its momentum.
FACTORS = ("factor_m", "factor_w")
MOMENTA = ("momentum_buffer", "momentum_buffer_w")


class SignInSGD(MaskedSGD):
    """SGD over the factors of masked weights, and over all other parameters as they are.

    Momentum and weight decay are those of each factor. Weights that somebody else has changed are
    split anew when a step is taken. Masked weights are exactly +0.0 after each step.

    Args:
        layers, lr, momentum, weight_decay: as in `MaskedSGD`.
        beta: the difference of the squares of the factors; positive.

    Raises:
        GemkernError: an option is out of its range.
    """

    _momenta = MOMENTA

    def __init__(
        self,
        layers: Layers,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        beta: float = 1.0,
    ) -> None:
        if not 0 < beta < math.inf:
            raise GemkernError(f"beta is {beta}: give a positive number")
        self._beta = beta
        super().__init__(layers, lr, momentum, weight_decay)

    @torch.no_grad()
    def rescale(self) -> None:
        """Split all weights anew; weights and momentum stay as they are."""
        for layer in self._layers:
            memory = self.state.get(layer.weight, {})
            if FACTORS[0] in memory:
                memory.update(zip(FACTORS, split(layer.weight, self._beta), strict=True))

    def _move(self) -> None:
        """Take a step of the factors, and SGD's for what has none."""
        groups = {one: group for group in self.param_groups for one in group["params"]}
        for layer in self._layers:
            if layer.weight.grad is not None:
                self._move_factors(layer, groups[layer.weight])
                layer.weight.grad = None
        super()._move()

    def _move_factors(self, layer: MaskedLayer, group: dict[str, Any]) -> None:
        weight, memory = layer.weight, self.state[layer.weight]
        self._mask_gradients([layer])
        grad = weight.grad
        assert grad is not None
        m, w = self._factors(weight)
        grads = (grad * w, grad * m)
        for name, buffer, factor, slope in zip(FACTORS, MOMENTA, (m, w), grads, strict=True):
            slope.add_(factor, alpha=group["weight_decay"])
            if buffer not in memory:
                memory[buffer] = torch.zeros_like(slope)
            memory[buffer].mul_(group["momentum"]).add_(slope)
            memory[name] = factor.sub_(memory[buffer], alpha=group["lr"])
        weight.copy_(m * w)

    def _factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of `weight`: what is remembered, where their product is still it."""
        m, w = split(weight, self._beta)
        memory = self.state[weight]
        if FACTORS[0] not in memory:
            return m, w
        remembered_m, remembered_w = (memory[name] for name in FACTORS)
        known = remembered_m * remembered_w == weight
        return torch.where(known, remembered_m, m), torch.where(known, remembered_w, w)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_beta": self._beta}


def split(weight: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return m > 0 and w with m * w = `weight` and m^2 - w^2 = `beta`, as near as rounding lets."""
    m = ((weight.square() * 4 + beta**2).sqrt_().add_(beta) / 2).sqrt_()
    return m, weight / m
