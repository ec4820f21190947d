"""SNIP: prune once, at initialisation, what the loss feels least.

Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR
2019, section 4. An indicator c multiplies each weight w; of the loss L on a mini-batch (equations 3
and 4) the saliency is::

    s = |dL/dc| at c = 1 = |w * dL/dw|
    m = s is among the round(density * total) highest of the network

To divide by the sum of all (equation 5) would change no order; the highest remain (equation 6).

Cost: a forward and a backward pass for each of `mini_batches`. While they last, a copy of the
network, and float32 gradient, sum of gradients and saliency for each weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.numbers import whole_number
from gemkern.optim import masked_layers
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.saliency import (
    Batch,
    count_kept,
    first,
    keep_highest,
    pruned,
    replica,
    weights_of,
)
from gemkern.tickets.ticket import Ticket


def snip_ticket(
    model: nn.Module,
    density: float,
    batches: Iterable[Batch],
    *,
    mini_batches: int = 1,
    name: str | None = None,
    model_seed: int | None = None,
) -> Ticket:
    """Return the ticket that keeps the weights with the highest connection sensitivity.

    Args:
        model: a converted model with its initial weights; it is not changed.
        density: fraction of all maskable weights that remains.
        batches: inputs and class labels.
        mini_batches: how many of the batches to read; their gradients are added.
        name, model_seed: of the network and of its initial weights, for the ticket.

    Raises:
        GemkernError: the model has no masked layers, nothing would go, there are too few batches,
            or a saliency is infinite or NaN.
    """
    number = whole_number("mini_batches", mini_batches, least=1)
    with replica(model, model_seed) as copied:
        count = count_kept(copied, density)
        saliencies = snip_saliencies(copied, first(batches, number, copied, "SNIP"))
        keep_highest(masked_layers(copied), saliencies, count, "SNIP")
    return pruned(model, copied, "snip", name, model_seed)


def snip_saliencies(model: nn.Module, batches: Iterable[Batch]) -> list[Tensor]:
    """Return |w * dL/dw| for each layer of a `replica`, L being the sum of the batches' losses."""
    weights = weights_of(model)
    sums = [torch.zeros_like(weight) for weight in weights]
    for inputs, labels in batches:
        loss = F.cross_entropy(model(inputs), labels)
        grads = torch.autograd.grad(loss, weights, materialize_grads=True)
        for total, grad in zip(sums, grads, strict=True):
            total += grad
    return [(weight.detach() * grad).abs() for weight, grad in zip(weights, sums, strict=True)]


@dataclass(frozen=True)
class SNIPSettings:
    """The settings of SNIP in a race."""

    snip_init: str = option("kaiming_normal", "Initial weights of SNIP.")
    snip_batches: int = option(1, "Batches whose gradients SNIP adds.")


def drawn(start: Start) -> Draw:
    """Return what prunes to as many weights as all tickets keep."""
    number = whole_number("snip_batches", start.own.snip_batches, least=1)
    model = start.converted()
    return partial(
        snip_ticket,
        model,
        start.weights / start.total,
        start.batches(),
        mini_batches=number,
        name=start.name,
        model_seed=start.seed,
    )


ENTRY = Entry(drawn, colour="#8C564B", settings=SNIPSettings, init="snip_init")
