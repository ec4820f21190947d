"""Concrete Ticket Search: a mask that is sampled, and learnt so that outputs stay as they were.

"Winning the Lottery by Preserving Network Training Dynamics with Concrete Ticket Search", arXiv
2512.07142. Each weight w, fixed, has a logit a; a step computes with w * m, where::

    m = sigmoid((a + log u - log(1 - u)) / temperature),    u uniform in (0, 1),

is a sample of the Binary Concrete distribution (Maddison et al., ICLR 2017). The objective is the
reverse KL divergence ``KL(sparse || dense)`` between the outputs of the sampled network and those
of the dense one, with the same weights, for the same images.

The expected density, the mean of sigmoid(a), is steered by balancing gradients, as the paper's
GradBalance does. Its exact rule was not at hand; this one is our own. Every step descends along::

    g / ||g|| + c * d / ||d||,    c = GAIN * log(expected density / wanted density),

where g is the gradient of the objective, d that of the expected density, and norms are over the
whole network: both have the same say, whatever their scales, but for c, which grows with the
distance from the wanted density and has its sign. The wanted density goes in the first half of the
epochs from that of the start, 1/2, to that of the end, by equal factors.

Cost: in each step of all epochs two forward passes, sampled and dense, and a backward pass of dense
layers. Float32 logit, noise and two moments of Adam for each weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gemkern.errors import GemkernError
from gemkern.nn.layers import Override
from gemkern.numbers import whole_number
from gemkern.optim.effective import Noted
from gemkern.optim.score_optimizer import check_range
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.randomness import generator
from gemkern.tickets.schedules import check_density
from gemkern.tickets.score_search import ScoreSearch
from gemkern.tickets.search import remove_lowest

GAIN = 10.0
START_DENSITY = 0.5
# Of the logits at first: small beside a step, and enough to tell them apart.
START_SPREAD = 0.01
# The part of the epochs in which the wanted density moves.
RAMP = 0.5
# Uniform numbers stay as far from 0 and 1.
MARGIN = 1e-7


class ConcreteTicketSearch(ScoreSearch):
    """Search a ticket in `model` by Concrete Ticket Search, with Adam over the logits.

    The scores of the layers hold the logits. In evaluation mode, at temperature 0, and at the end
    the mask is that of the largest logits over the whole network, exactly as many as the ticket
    keeps; of equal logits the lowest index goes first. What becomes of the model at the end is said
    at `ScoreSearch`.

    A loop of one's own descends on `loss(model(images), labels, images)`.

    Args:
        model: a converted model with scores, all weights active.
        density: fraction of the maskable weights that is kept in the end, in (0, 1).
        epochs: length of the search.
        lr: learning rate of the first epoch.
        temperature: of the samples, above 0.
        schedule: of the learning rate, a name in `gemkern.training.rates`.
        seed: draws the logits, and the samples of each step.
        model_seed: of the model's initial weights, for the ticket.
        name: of the network, for the ticket.

    Attributes:
        temperature: of the samples; set to 0, training mode computes with the mask of the largest
            logits too.

    Raises:
        GemkernError: the model has no scores or masked weights, an unknown choice, or an option out
            of its range.
    """

    optimizer: torch.optim.Adam

    def __init__(
        self,
        model: nn.Module,
        density: float,
        epochs: int,
        *,
        lr: float = 0.1,
        temperature: float = 2 / 3,
        schedule: str = "cosine",
        seed: int = 0,
        model_seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            model,
            epochs,
            method="cts",
            lr=lr,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        check_density(density)
        check_range("lr", lr, 0.0)
        if not 0 < temperature < math.inf:
            raise GemkernError(
                f"samples of temperature {temperature} have no gradient: give a number above 0"
            )
        self.temperature = temperature
        self._seed = whole_number("the seed", seed)
        self._steps = 0
        self._end_density = density
        self._removed = self.total - max(1, round(density * self.total))
        self._largest: tuple[Noted, list[Tensor]] | None = None
        self._is_dense = False
        scores = self._scores()
        self._noise = [torch.empty_like(score) for score in scores]
        self._wanted = torch.zeros((), device=scores[0].device)
        self.optimizer = self._adam()
        self._draw_logits()
        self._enter(0)
        self._begin(self.optimizer, False)

    @property
    def expected_density(self) -> float:
        """The mean probability that a weight is kept; the density at the end. Reads the device."""
        if self.epoch == self.epochs:
            return self.density
        return _mean([logit.sigmoid() for logit in self._scores()]).item()

    def loss(self, outputs: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return KL(sparse || dense), from the model's outputs for `images`.

        The dense network is the model itself, all of its weights kept and its buffers, such as
        batch-norm statistics, left as they are.
        """
        return reverse_kl(outputs, self._dense_outputs(images))

    def learn(self) -> None:
        """Move the logits by the balanced gradients, and clear all of the model's.

        Raises:
            GemkernError: there are none.
        """
        self._require_gradient(self._has_gradients())
        self._balance()
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """Count the step, and draw the samples of the next.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        self._steps += 1
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search and the optimiser's state; logits are the model's."""
        return {**super().state_dict(), "steps": self._steps, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first, after the search was made."""
        self._steps, self._seed = state["steps"], state["seed"]
        # The options are those of this search: another device may need others.
        options = self.optimizer.state_dict()["param_groups"]
        optimizer = {**state["optimizer"], "param_groups": options}
        super().load_state_dict({**state, "optimizer": optimizer})

    @torch.no_grad()
    def _balance(self) -> None:
        """Let the gradients be those of the objective and of the density, balanced."""
        logits = self._scores()
        objective = [
            torch.zeros_like(layer.scores) if layer.scores.grad is None else layer.scores.grad
            for layer in self.layers.values()
        ]
        kept = [logit.sigmoid() for logit in logits]
        density = [one * (1 - one) for one in kept]
        weight = GAIN * (_mean(kept) / self._wanted).log() / _norm(density)
        scale = 1 / _norm(objective)
        for layer, towards, away in zip(self.layers.values(), objective, density, strict=True):
            layer.scores.grad = towards * scale + away * weight

    @torch.no_grad()
    def _dense_outputs(self, images: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self._is_dense = True
        try:
            return functional_call(self.model, buffers, (images,))
        finally:
            self._is_dense = False

    def _masks(self) -> list[Tensor]:
        masks = [torch.ones_like(layer.active) for layer in self.layers.values()]
        remove_lowest(self._scores(), masks, self._removed)
        return masks

    def _largest_logits(self, index: int) -> Tensor:
        """Return the mask of a layer, made anew where logits have changed."""
        scores = self._scores_themselves()
        if self._largest is None or not self._largest[0].still(scores):
            self._largest = Noted(scores), self._masks()
        return self._largest[1][index]

    def _scores_themselves(self) -> list[Tensor]:
        return [layer.scores for layer in self.layers.values()]

    def _override(self, index: int) -> Override:
        return partial(self._computed_with, index)

    def _computed_with(self, index: int, layer: Any, dtype: torch.dtype) -> Tensor:
        if self._is_dense:
            return layer.weight.to(dtype)
        if layer.training and self.temperature > 0:
            sample = concrete(layer.scores, self._noise[index], self.temperature)
            return (layer.weight * sample).to(dtype)
        return torch.where(self._largest_logits(index), layer.weight, 0).to(dtype)

    def _refresh(self) -> None:
        # Steps of a captured graph change logits unnoticed.
        self._largest = None
        self._wanted.fill_(wanted_density(self.epoch, self.epochs, self._end_density))
        step = generator(f"concrete samples of step {self._steps}", self._seed).initial_seed()
        stream = torch.Generator(self._wanted.device).manual_seed(step)
        for noise in self._noise:
            noise.uniform_(generator=stream).logit_(eps=MARGIN)

    def _adam(self) -> torch.optim.Adam:
        scores = self._scores_themselves()
        if not self._on_cuda:
            return torch.optim.Adam(scores, lr=self._lr)
        lr = torch.tensor(self._lr, device=scores[0].device)
        return torch.optim.Adam(scores, lr=lr, fused=True, capturable=True)

    def _draw_logits(self) -> None:
        stream = generator("concrete logits", self._seed)
        for score in self._scores():
            drawn = torch.randn(score.shape, generator=stream)
            score.copy_(math.log(START_DENSITY / (1 - START_DENSITY)) + START_SPREAD * drawn)


def concrete(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return a sample of the Binary Concrete distribution.

    Args:
        noise: log u - log(1 - u), u uniform in (0, 1).
    """
    return ((logits + noise) / temperature).sigmoid()


def reverse_kl(sparse: Tensor, dense: Tensor) -> Tensor:
    """Return KL(sparse || dense) of the distributions that logits [..., classes] stand for.

    It is the mean over the batch, in float32 at least.
    """
    ours, theirs = (
        logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        for logits in (sparse, dense)
    )
    return (ours.exp() * (ours - theirs)).sum(-1).mean()


def wanted_density(epoch: int, epochs: int, end: float) -> float:
    """Return the expected density to which an epoch is steered."""
    way = min(1.0, (epoch + 1) / math.ceil(RAMP * epochs))
    return START_DENSITY ** (1 - way) * end**way


def _mean(tensors: list[Tensor]) -> Tensor:
    count = sum(tensor.numel() for tensor in tensors)
    return torch.stack([tensor.sum() for tensor in tensors]).sum() / count


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all of `tensors` together, no smaller than can be divided by."""
    norms = torch.stack(torch._foreach_norm(tensors))
    return torch.linalg.vector_norm(norms).clamp_min(torch.finfo(norms.dtype).tiny)


@dataclass(frozen=True)
class CTSSettings:
    """The settings of Concrete Ticket Search in a race."""

    cts_init: str = option("kaiming_normal", "Initial weights of Concrete Ticket Search.")
    cts_epochs: int = option(150, "Epochs of the search.", epochs=True)
    cts_lr: float = option(0.1, "Learning rate of the logits in the first epoch.")
    cts_temperature: float = option(2 / 3, "Temperature of the samples.")


def sampled(start: Start) -> ConcreteTicketSearch:
    """Return the search of Concrete Ticket Search, for as many weights as all tickets keep."""
    model, own = start.converted(scores=True), start.own
    return ConcreteTicketSearch(
        model,
        start.weights / start.total,
        own.cts_epochs,
        lr=own.cts_lr,
        temperature=own.cts_temperature,
        seed=start.seed,
        model_seed=start.seed,
        name=start.name,
    )


ENTRY = Entry(sampled, colour="#9467BD", settings=CTSSettings, init="cts_init")
