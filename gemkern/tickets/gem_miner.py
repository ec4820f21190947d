"""Gem-Miner: a ticket at initialisation, found in one run.

"Rare Gems: Finding Lottery Tickets at Initialization", NeurIPS 2022, section 3 and Algorithm 1.
Each weight w, fixed at its initial value, has a score p in [0, 1]; q says whether it is active.
A step computes with w_eff, and its gradient goes straight through to the scores::

    w_eff = w where p >= 0.5 and q, else 0
    g = dL/dw_eff * w + 2 * l2 * p
    v = momentum * v + g
    p = clamp(p - lr * v, 0, 1) where q, else 0

K times, T epochs apart, the lowest scores of the whole network freeze at zero for good::

    q = q without its ceil(r * sum(q)) lowest p
    r = 1 - density^(1 / K), K = (epochs - 1) // T

Cost: in each step of all epochs a forward and a backward pass. Float32 score and momentum for each
weight (Adam: two moments), and the effective weight where the step is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.nn import decelerate
from gemkern.numbers import whole_number
from gemkern.optim import ScoreAdam, ScoreSGD
from gemkern.optim.score_optimizer import check_range
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.randomness import generator
from gemkern.tickets.schedules import freeze_epochs, freeze_rate, share, weights_left
from gemkern.tickets.score_starts import STARTS
from gemkern.tickets.search import Search, remove_lowest, select_lowest
from gemkern.tickets.ticket import Ticket
from gemkern.training.forms import Accelerated
from gemkern.training.rates import rate, set_lr

DEFAULT_LR = {"sgd": 0.1, "adam": 0.01}
# The largest float32 below 0.5.
BELOW_HALF = 0.5 - 2.0**-25


class GemMiner(Search):
    """Mine a ticket in `model`, whose scores learn (`gemkern.convert(model, scores=True)`).

    The weights are never touched, so the ticket holds the initial ones; batch-norm statistics are
    those of the mined network.

    To resume, make the same model and miner first and then load both states, since `seed` draws
    the scores.

    Args:
        model: a converted model; its other parameters stay as they are.
        density: fraction of the maskable weights that remains in the end, in (0, 1); less than is
            active at first.
        epochs: length of the search.
        freeze_every: epochs between freezes (T of Algorithm 1).
        optimizer: "sgd" or "adam", of the scores.
        lr: learning rate of the first epoch; None for 0.1 (SGD) or 0.01 (Adam).
        momentum: of SGD.
        l2: lambda of the regulariser lambda * ||p||^2.
        l1: lambda of the regulariser lambda * ||p||_1, of active scores (the authors found it
            "nearly the same"); with it a step is not fused.
        schedule: of the learning rate, a name in `gemkern.training.rates`.
        rule: when and how much to freeze, "authors" or "paper" (`gemkern.tickets.schedules`).
        ties: "exact" freezes exactly the planned number, equal scores by lowest index; "authors"
            freezes every score up to the last of them.
        keep: "active" keeps every weight that was never frozen, which meets the density; "rounded"
            keeps those of them with p >= 0.5 (Algorithm 1).
        half: "up" rounds a score of exactly 0.5 up (Algorithm 1); "down" masks its weight, as the
            authors' code does: the score moves to the float below, in passes of their own.
        freeze: "lowest" scores, or "highest": the score inversion of the sanity checks, a whole
            search that freezes what matters most (Rare Gems, section 4).
        scope: "global" ranks the scores of the whole network, "layer" each layer's by themselves,
            and freezes the same fraction of each.
        rewound: at each freeze, scores that remain go back to where they started, and what the
            optimiser remembers of them is forgotten.
        unlearnt: layers whose scores no gradient ever reached: "refuse" raises at the end of an
            epoch, "keep" freezes none of their weights, and so more of the others'.
        seed: draws new scores; None leaves the scores as they are.
        start: what they are drawn from: "uniform" in [0, 1), "half" (all 0.5), "bernoulli" (0 or 1
            with even chances), "bimodal" (Beta(0.1, 0.1)) or "skewed" (Beta(1, 5)).
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.
        fused: layers compute with effective weights that the score step writes, all mask work of a
            training step in one launch. Gradients then never reach `scores.grad`: leave it off to
            clip or read them, or to use a GradScaler.
        accelerated: True to run the layers on the sparse kernels wherever steps are faster for it,
            which is measured; or another choice of `gemkern.training.Forms`.

    Raises:
        GemkernError: the model has no scores, an unknown choice, or a plan that cannot be.
    """

    optimizer: ScoreSGD | ScoreAdam

    def __init__(
        self,
        model: nn.Module,
        density: float,
        epochs: int,
        freeze_every: int,
        *,
        optimizer: str = "sgd",
        lr: float | None = None,
        momentum: float = 0.9,
        l2: float = 0.0,
        l1: float = 0.0,
        schedule: str = "cosine",
        rule: str = "authors",
        ties: str = "exact",
        keep: str = "active",
        half: str = "up",
        freeze: str = "lowest",
        scope: str = "global",
        rewound: bool = False,
        unlearnt: str = "refuse",
        seed: int | None = None,
        start: str = "uniform",
        model_seed: int | None = None,
        name: str | None = None,
        fused: bool = True,
        accelerated: Accelerated = False,
    ) -> None:
        super().__init__(model, epochs)
        for layer_name, layer in self.layers.items():
            if layer.scores is None:
                raise GemkernError(
                    f"layer {layer_name!r} has no scores to learn: convert the model with "
                    "gemkern.convert(model, scores=True)"
                )
        _check_choice("optimizer", optimizer, tuple(DEFAULT_LR))
        _check_choice("ties", ties, ("exact", "authors"))
        _check_choice("keep", keep, ("active", "rounded"))
        _check_choice("half", half, ("up", "down"))
        _check_choice("freeze", freeze, ("lowest", "highest"))
        _check_choice("scope", scope, ("global", "layer"))
        _check_choice("start", start, tuple(STARTS))
        check_range("l1", l1, 0.0)
        _check_choice("unlearnt", unlearnt, ("refuse", "keep"))
        freeze_every = whole_number("the number of epochs between freezes", freeze_every)
        self._density, self._freeze_every, self._rule = density, freeze_every, rule
        self._plan_freezes(self._plan_from(density))
        self._ties = ties
        self._keep = keep
        self._half = half
        self._sign = 1.0 if freeze == "lowest" else -1.0
        self._scope = scope
        self._l1 = l1
        self._unlearnt = unlearnt
        seed = None if seed is None else whole_number("the seed", seed)
        self._model_seed = None if model_seed is None else whole_number("the seed", model_seed)
        self._name = name
        self._lr = DEFAULT_LR[optimizer] if lr is None else lr
        self._factor = rate(schedule)
        self.optimizer = (
            ScoreSGD(model, lr=self._lr, momentum=momentum, l2=l2, fused=fused)
            if optimizer == "sgd"
            else ScoreAdam(model, lr=self._lr, l2=l2, fused=fused)
        )
        if seed is not None:
            self._draw_scores(seed, start)
        self._first_scores = (
            [layer.spread(layer.scores.detach()).clone() for layer in self.layers.values()]
            if rewound
            else []
        )
        self._enter(0)
        self._begin(self.optimizer, accelerated)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state, the epoch, how many weights were active in the first, and
        the forms of the layers.

        Scores and active are the model's state.
        """
        return {
            "epoch": self.epoch,
            "optimizer": self.optimizer.state_dict(),
            "steps_of_epoch": self._steps_of_epoch,
            "began_with": self._began_with,
            "first_scores": self._first_scores,
            "forms": self.forms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first, after the miner was made.

        Raises:
            GemkernError: the search was accelerated, and the model does not have its masks.
        """
        self._plan_freezes(state["began_with"])
        self._steps_of_epoch = state["steps_of_epoch"]
        self._first_scores = state["first_scores"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.forms.load_state_dict(state["forms"])
        self._enter(state["epoch"])

    def learn(self) -> None:
        """Move the scores by the gradients that are there, and clear all of the model's.

        Raises:
            GemkernError: there are none.
        """
        self._require_gradient(self.optimizer.has_gradients())
        if self._l1 > 0:
            self._add_l1()
        self.optimizer.step()
        if self._half == "down":
            self._lower_halves()
            self.optimizer.refresh()
        self.model.zero_grad(set_to_none=True)

    def _close_epoch(self) -> bool:
        self._check_numbers("score", self._scores())
        self._check_learnt()
        freezes = self.epoch in self._freeze_epochs
        if freezes:
            self._freeze()
        self._enter(self.epoch + 1)
        return freezes

    def _plan_freezes(self, active: int) -> None:
        """Plan the way from `active` weights to the density; it is a fraction of all weights."""
        kept = self._density * (self.total / active)
        plan = self.epochs, self._freeze_every, self._rule
        weights_left(active, kept, *plan)
        self._began_with = active
        self._freeze_epochs = frozenset(freeze_epochs(*plan))
        self._freeze_rate = freeze_rate(kept, *plan)

    def _freeze(self) -> None:
        k = share(self._freeze_rate, self.weights_left)
        ranked = self._ranked(k)
        groups = [ranked] if self._scope == "global" else [[layer] for layer in ranked]
        for layers in groups:
            if self._scope == "layer":
                k = share(self._freeze_rate, int(layers[0].active.sum()))
            scores = [self._sign * one.scores.detach() for one in layers]
            active = [one.active for one in layers]
            if self._ties == "exact":
                remove_lowest(scores, active, k)
            else:
                self._remove_up_to_kth(scores, active, k)
        if self._first_scores:
            self._rewind_scores()

    def _rewind_scores(self) -> None:
        for layer, first in zip(self.layers.values(), self._first_scores, strict=True):
            layer.scores.detach().copy_(layer.gather(first.to(layer.scores.device)))
            for memory in self.optimizer.state.get(layer.scores, {}).values():
                if isinstance(memory, Tensor):
                    memory.zero_()

    def _add_l1(self) -> None:
        """Add the gradient of the L1 regulariser where gradients of scores go."""
        for layer in self.layers.values():
            scores = layer.scores
            grad = self._l1 * (layer.active & (scores.detach() > 0))
            scores.grad = grad if scores.grad is None else scores.grad + grad

    def _ranked(self, k: int) -> list[Any]:
        """Return the layers that k weights are to be taken from: those that have learnt."""
        unlearnt = self._unlearnt_layers()
        layers = [layer for name, layer in self.layers.items() if name not in unlearnt]
        if unlearnt and k >= (left := sum(int(layer.active.sum()) for layer in layers)):
            raise GemkernError(
                f"the freeze of epoch {self.epoch + 1} takes {k} weights and the layers that learn "
                f"have {left}: raise the density, or let {', '.join(unlearnt)} learn"
            )
        return layers

    def _unlearnt_layers(self) -> list[str]:
        """Return the names of the layers whose scores no gradient ever reached."""
        learnt = self.optimizer.has_learnt
        return [name for name, layer in self.layers.items() if not learnt(layer)]

    def _check_learnt(self) -> None:
        names = self._unlearnt_layers()
        if names and self._unlearnt == "refuse":
            raise GemkernError(
                f"no gradient has reached the scores of {', '.join(map(repr, names))}, which are "
                "what they were drawn as: let the loss depend on them, leave them out of "
                'gemkern.convert, or mine with unlearnt="keep"'
            )

    def _remove_up_to_kth(self, scores: Sequence[Tensor], active: Sequence[Tensor], k: int) -> None:
        kth, _ = select_lowest(scores, active, k)
        above = [on & (score > kth) for on, score in zip(active, scores, strict=True)]
        if not any(kept.any() for kept in above):
            raise GemkernError(
                f"all scores that were left tie at {kth.item():g}, and the freeze of epoch "
                f'{self.epoch + 1} took them all: mine with ties="exact"'
            )
        for on, kept in zip(active, above, strict=True):
            on.copy_(kept)

    def _start(self) -> list[Tensor]:
        return [*self._scores(), *self._first_scores]

    def _found(self) -> Ticket:
        masks = {
            name: layer.spread(layer.active if self._keep == "active" else layer.mask())
            for name, layer in self.layers.items()
        }
        return Ticket.from_model(
            self.model, method="gem-miner", masks=masks, name=self._name, seed=self._model_seed
        )

    def _scores(self) -> list[Tensor]:
        return [layer.scores.detach() for layer in self.layers.values()]

    def _draw_scores(self, seed: int, start: str) -> None:
        stream = generator("scores", seed)
        for score in self._scores():
            score.copy_(STARTS[start](score.shape, stream))

    def _lower_halves(self) -> None:
        for score in self._scores():
            score.masked_fill_(score == 0.5, BELOW_HALF)

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        if epoch == self.epochs:
            self.optimizer.release()
            decelerate(self.model)
        set_lr(self.optimizer, self._lr * self._factor(epoch, self.epochs))
        if self._half == "down":
            self._lower_halves()
        self.optimizer.refresh()


def _check_choice(what: str, chosen: str, choices: tuple[str, ...]) -> None:
    if chosen not in choices:
        raise GemkernError(f"{what} cannot be {chosen!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class GemMinerSettings:
    """The settings of Gem-Miner in a race."""

    mine_init: str = option(
        "signed_constant", "Initial weights of Gem-Miner and of what is drawn from its ticket."
    )
    mine_epochs: int = option(150, "Epochs of the search.", epochs=True)
    freeze_every: int = option(5, "Epochs between freezes.", epochs=True)
    score_optimizer: str = option("sgd", "What moves the scores: sgd or adam.")
    score_lr: float = option(0.1, "Learning rate of the scores in the first epoch.")
    l2: float = option(5e-5, "Factor of the regulariser of the scores, their squares.")
    l1: float = option(0.0, "Factor of the regulariser of the scores, their magnitudes.")
    mine_start: str = option("uniform", f"Scores at first: {', '.join(STARTS)}.")
    mine_rule: str = option("authors", "When and how much to freeze: authors or paper.")
    mine_keep: str = option("active", "The ticket: active, or rounded for scores above 0.5 alone.")
    mine_scope: str = option("global", "Scores are ranked in the whole network, or in a layer.")
    mine_rewound: bool = option(False, "Whether scores go back to their start at freezes.")


def mined(start: Start, freeze: str = "lowest") -> GemMiner:
    """Return Gem-Miner's search, or the inverted, ``freeze="highest"`` (Rare Gems, section 4)::

        q = q without its ceil(r * sum(q)) highest p

    Cost: that of Gem-Miner.
    """
    model, own = start.converted(scores=True), start.own
    return GemMiner(
        model,
        start.density,
        own.mine_epochs,
        own.freeze_every,
        optimizer=own.score_optimizer,
        lr=own.score_lr,
        l2=own.l2,
        l1=own.l1,
        rule=own.mine_rule,
        keep=own.mine_keep,
        freeze=freeze,
        scope=own.mine_scope,
        rewound=own.mine_rewound,
        seed=start.seed,
        start=own.mine_start,
        model_seed=start.seed,
        name=start.name,
        accelerated=start.accelerated(),
    )


ENTRY = Entry(mined, colour="#D55E00", settings=GemMinerSettings, init="mine_init")
INVERTED = Entry(
    partial(mined, freeze="highest"),
    colour="#FDBE85",
    settings=GemMinerSettings,
    init="mine_init",
)
