"""Edge-popup: scores choose a subnetwork of fixed weights by their magnitudes.

Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", CVPR 2020, section 3. Each
weight w, fixed, has a score p. Gradients go straight through the choice, to every score, kept or
not, so that a weight that was left out may come back::

    w_eff = w where |p| is among the k largest of its layer, else 0
    k = max(1, round(density * size of the layer))
    g = dL/dw_eff * w * sign(p) + (weight_decay + 2 * l2) * p
    v = momentum * v + g
    p = p - lr * v

Cost: in each step of all epochs a forward and a backward pass of dense layers, and the k largest of
every layer anew. Float32 score and momentum for each weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn.layers import Override
from gemkern.numbers import whole_number
from gemkern.optim import MaskedSGD
from gemkern.optim.score_optimizer import check_range
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.randomness import generator
from gemkern.tickets.schedules import check_density, freeze_epochs, freeze_rate, share
from gemkern.tickets.score_search import ScoreSearch

METHODS = {"layer": "edge-popup", "global": "global-edge-popup"}


class EdgePopup(ScoreSearch):
    """Search a ticket in `model` by edge-popup, with SGD over the scores.

    The masks follow the scores from step to step; of equal magnitudes the lowest index goes first.
    What becomes of the model at the end is said at `ScoreSearch`.

    Args:
        model: a converted model with scores, all weights active; the authors' begin as signed
            constants.
        density: fraction of the maskable weights that is kept in the end, in (0, 1).
        epochs: length of the search.
        scope: "layer" keeps round(density * size) weights of each layer, at least 1, which need not
            add up to round(density * total); "global" ranks the whole network together and keeps
            exactly that.
        freeze_every: None keeps `density` from the first step; with T epochs what is kept is
            lowered every T epochs, as by Gem-Miner's freezes (`gemkern.tickets.schedules`, the
            authors' rule), and nothing is frozen.
        lr, momentum, weight_decay: of SGD.
        l2: lambda of the regulariser lambda * ||scores||^2, beside the weight decay.
        schedule: of the learning rate, a name in `gemkern.training.rates`.
        seed: draws new scores, uniform in +-1 / sqrt(fan_in), which is Kaiming's with a = sqrt(5);
            None leaves the scores as they are.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.

    Raises:
        GemkernError: the model has no scores or masked weights, an unknown choice, or a plan that
            cannot be.
    """

    optimizer: MaskedSGD

    def __init__(
        self,
        model: nn.Module,
        density: float,
        epochs: int,
        *,
        scope: str = "layer",
        freeze_every: int | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        l2: float = 0.0,
        schedule: str = "cosine",
        seed: int | None = None,
        model_seed: int | None = None,
        name: str | None = None,
    ) -> None:
        if scope not in METHODS:
            raise GemkernError(f"scope cannot be {scope!r}: choose one of {', '.join(METHODS)}")
        super().__init__(
            model,
            epochs,
            method=METHODS[scope],
            lr=lr,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        check_density(density)
        check_range("weight_decay", weight_decay, 0.0)
        check_range("l2", l2, 0.0)
        self._is_global = scope == "global"
        sizes = [score.numel() for score in self._scores()]
        groups = [self.total] if self._is_global else sizes
        self._plans = [kept_of(size, density, self.epochs, freeze_every) for size in groups]
        # How many weights each layer keeps, and the whole network loses, where steps read them.
        device = self._scores()[0].device
        self._kept = torch.tensor(sizes, device=device)
        self._removed = torch.tensor(0, device=device)
        self.optimizer = MaskedSGD(
            list(self.layers.values()),
            lr=lr,
            momentum=momentum,
            # Of lambda * ||scores||^2 the gradient is 2 * lambda * scores.
            weight_decay=weight_decay + 2 * l2,
            capturable=self._on_cuda,
        )
        if seed is not None:
            self._draw_scores(whole_number("the seed", seed))
        self._enter(0)
        self._begin(self.optimizer, False)

    def learn(self) -> None:
        """Move the scores by the gradients that are there, and clear all of the model's.

        Raises:
            GemkernError: there are none.
        """
        self._require_gradient(self._has_gradients())
        self.optimizer.step()
        if self._is_global:
            self._count()
        self.model.zero_grad(set_to_none=True)

    def _masks(self) -> list[Tensor]:
        return ops.popup_mask(self._scores(), self._kept)

    def _override(self, index: int) -> Override:
        return partial(_computed_with, self._kept[index : index + 1])

    def _refresh(self) -> None:
        kept = [plan[self.epoch] for plan in self._plans]
        if self._is_global:
            self._removed.fill_(self.total - kept[0])
            self._count()
        else:
            self._kept.copy_(torch.tensor(kept))

    @torch.no_grad()
    def _count(self) -> None:
        """Note how many of the network's largest scores are in each layer."""
        magnitudes = [score.abs() for score in self._scores()]
        masks = [layer.active.clone() for layer in self.layers.values()]
        ops.remove_lowest(magnitudes, masks, *ops.select_kth(magnitudes, masks, self._removed))
        self._kept.copy_(torch.stack([mask.sum() for mask in masks]))

    def _draw_scores(self, seed: int) -> None:
        stream = generator("popup scores", seed)
        for score in self._scores():
            bound = 1 / math.sqrt(score[0].numel())
            score.copy_(torch.empty(score.shape).uniform_(-bound, bound, generator=stream))


def kept_of(size: int, density: float, epochs: int, freeze_every: int | None = None) -> list[int]:
    """Return how many of `size` weights are kept in each of the epochs, and after the last.

    The number of the end is round(density * size), at least 1.

    Args:
        freeze_every: as in `EdgePopup`.

    Raises:
        GemkernError: nothing would ever be lowered.
    """
    end = max(1, round(density * size))
    if freeze_every is None:
        return [end] * (epochs + 1)
    removed = freeze_rate(density, epochs, freeze_every)
    planned = freeze_epochs(epochs, freeze_every)
    left, kept = size, [size]
    for epoch in range(epochs):
        if epoch in planned:
            # Shares are rounded up, so the end never comes too late.
            left = max(end, left - share(removed, left))
        kept.append(left)
    return kept


def _computed_with(kept: Tensor, layer: Any, dtype: torch.dtype) -> Tensor:
    return ops.popup_weight([layer.weight], [layer.scores], kept, dtype)[0]


@dataclass(frozen=True)
class PopupSettings:
    """The settings of edge-popup in a race."""

    popup_init: str = option("signed_constant", "Initial weights of edge-popup.")
    popup_epochs: int = option(150, "Epochs of the search.", epochs=True)
    popup_lr: float = option(0.1, "Learning rate of the scores in the first epoch.")
    popup_momentum: float = option(0.9, "Momentum of the scores.")
    popup_weight_decay: float = option(1e-4, "Weight decay of the scores.")


@dataclass(frozen=True)
class GlobalPopupSettings:
    """The settings of global edge-popup in a race."""

    global_popup_init: str = option("signed_constant", "Initial weights of global edge-popup.")
    global_popup_epochs: int = option(150, "Epochs of the search.", epochs=True)
    global_popup_lr: float = option(0.1, "Learning rate of the scores in the first epoch.")
    global_popup_momentum: float = option(0.9, "Momentum of the scores.")
    global_popup_weight_decay: float = option(1e-4, "Weight decay of the scores.")
    global_popup_l2: float = option(0.0, "Factor of the regulariser of the scores.")
    global_popup_freeze_every: int = option(
        0, "Epochs between steps of the density; 0 for the final one at once.", epochs=True
    )


def popped(start: Start) -> EdgePopup:
    """Return the search of edge-popup.

    Each layer keeps the race's fraction of its weights: by rounding, their sum may differ from what
    other tickets keep.
    """
    own = start.own
    return _search(
        start,
        own.popup_epochs,
        lr=own.popup_lr,
        momentum=own.popup_momentum,
        weight_decay=own.popup_weight_decay,
    )


def popped_globally(start: Start) -> EdgePopup:
    """Return the search of global edge-popup, for as many weights as all tickets keep.

    "Rare Gems" (NeurIPS 2022, Table 3) goes from edge-popup towards Gem-Miner: one threshold for
    the whole network, a density that is lowered step by step, and a regulariser of the scores, the
    last two by option::

        w_eff = w where |p| is among the k largest of the network, else 0
        k = round(density * total), or what Gem-Miner's freezes would have left by now
        L + l2 * sum(p^2) in place of L

    Cost: that of edge-popup, and the k largest of the network anew in each step.
    """
    own = start.own
    return _search(
        start,
        own.global_popup_epochs,
        scope="global",
        freeze_every=own.global_popup_freeze_every or None,
        lr=own.global_popup_lr,
        momentum=own.global_popup_momentum,
        weight_decay=own.global_popup_weight_decay,
        l2=own.global_popup_l2,
    )


def _search(start: Start, epochs: int, **options: Any) -> EdgePopup:
    model = start.converted(scores=True)
    return EdgePopup(
        model,
        start.weights / start.total,
        epochs,
        seed=start.seed,
        model_seed=start.seed,
        name=start.name,
        **options,
    )


ENTRY = Entry(popped, colour="#7F7F7F", settings=PopupSettings, init="popup_init")
GLOBAL = Entry(
    popped_globally, colour="#1F77B4", settings=GlobalPopupSettings, init="global_popup_init"
)
