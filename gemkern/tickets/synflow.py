"""SynFlow: prune in many rounds, without data, so that no layer is cut off.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively
conserving synaptic flow", NeurIPS 2020, section 6 and Algorithm 1. With its absolute value in the
place of every parameter and ones in that of an image, R is the sum of the outputs (equation 2).
Round k of n keeps the highest scores s (equation 1)::

    w = |w|
    s = dR/dw * w
    m = s is among the round(density^(k / n) * total) highest of the network

Cost: `rounds` forward and backward passes of one image of ones. While they last, a copy of the
network, gradient and score for each weight, all in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.optim import masked_layers
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.saliency import count_kept, keep_highest, pruned, replica, weights_of
from gemkern.tickets.ticket import Ticket


def synflow_ticket(
    model: nn.Module,
    density: float,
    shape: Sequence[int],
    *,
    rounds: int = 100,
    name: str | None = None,
    model_seed: int | None = None,
) -> Ticket:
    """Return the ticket that keeps the weights through which most flows, round after round.

    Scores are computed in float64, which holds the flow through deep networks without norms, and
    with batch norms as they are before any training.

    Args:
        model: a converted model with its initial weights; it is not changed.
        density: fraction of all maskable weights that remains.
        shape: of one input: channels, height and width of an image.
        rounds: how often scores are computed anew.
        name, model_seed: of the network and of its initial weights, for the ticket.

    Raises:
        GemkernError: the model has no masked layers, nothing would go, or a score is infinite or
            NaN.
    """
    rounds = whole_number("rounds", rounds, least=1)
    with replica(model, model_seed) as copied:
        count, layers = count_kept(copied, density), masked_layers(copied)
        left = sum(int(layer.active.sum()) for layer in layers.values())
        linearise(copied)
        for remaining in synflow_weights_left(left, count, rounds):
            keep_highest(layers, synflow_saliencies(copied, shape), remaining, "SynFlow")
    return pruned(model, copied, "synflow", name, model_seed)


def synflow_weights_left(left: int, count: int, rounds: int) -> list[int]:
    """Return how many of `left` weights remain after each round; `count` after the last.

    The fraction that a round keeps is the same in all, but for rounding.

    Raises:
        GemkernError: there is no round, or not 0 < count < left.
    """
    if rounds < 1 or not 0 < count < left:
        raise GemkernError(
            f"{left} weights cannot become {count} in {rounds} rounds: give at least 1 round, and "
            "a number of weights between the two"
        )
    return [round(left * (count / left) ** (k / rounds)) for k in range(1, rounds)] + [count]


def linearise(model: nn.Module) -> None:
    """Make a `replica` what SynFlow computes with: |w| everywhere, norms that do nothing yet."""
    model.double().eval()
    for module in model.modules():
        reset = getattr(module, "reset_running_stats", None)
        if reset is not None:
            reset()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()


def synflow_saliencies(model: nn.Module, shape: Sequence[int]) -> list[Tensor]:
    """Return dR/dw * w for each layer of a linearised `replica`, for inputs of `shape`."""
    weights = weights_of(model)
    outputs = model(weights[0].new_ones((1, *shape)))
    grads = torch.autograd.grad(outputs.sum(), weights, materialize_grads=True)
    return [weight.detach() * grad for weight, grad in zip(weights, grads, strict=True)]


@dataclass(frozen=True)
class SynFlowSettings:
    """The settings of SynFlow in a race."""

    synflow_init: str = option("kaiming_normal", "Initial weights of SynFlow.")
    synflow_rounds: int = option(100, "Rounds in which SynFlow prunes.")


def drawn(start: Start) -> Draw:
    """Return what prunes to as many weights as all tickets keep."""
    rounds = whole_number("synflow_rounds", start.own.synflow_rounds, least=1)
    model = start.converted()

    def draw() -> Ticket:
        inputs, _ = next(start.batches())
        return synflow_ticket(
            model,
            start.weights / start.total,
            inputs.shape[1:],
            rounds=rounds,
            name=start.name,
            model_seed=start.seed,
        )

    return draw


ENTRY = Entry(drawn, colour="#17BECF", settings=SynFlowSettings, init="synflow_init")
