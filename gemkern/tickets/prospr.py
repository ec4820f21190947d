"""ProsPr: prune once, at initialisation, what the first steps of training do not need.

Alizadeh et al., "Prospect Pruning: Finding Trainable Weights at Initialization using
Meta-Gradients", ICLR 2022, section 3 and Algorithm 1. An indicator c multiplies the initial weights
once; what comes of it learns for a few steps of SGD, a batch each, and the saliency is that of the
loss on the batch after, through all the steps::

    w_0 = c * w, v_0 = 0
    v_t = momentum * v_(t-1) + dL_t/dw_(t-1)
    w_t = w_(t-1) - lr * v_t, t = 1 to steps
    s = |dL/dc| at c = 1 = |w * dL/dw_0|, L that of w_t after the last
    m = s is among the round(density * total) highest of the network

Cost: `steps` + 1 forward and backward passes, the last backward pass through all of them. While
they last, a copy of the network, and the weights and activations of every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gemkern.numbers import whole_number
from gemkern.optim import masked_layers
from gemkern.optim.score_optimizer import check_momentum, check_range
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


def prospr_ticket(
    model: nn.Module,
    density: float,
    batches: Iterable[Batch],
    *,
    steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    name: str | None = None,
    model_seed: int | None = None,
) -> Ticket:
    """Return the ticket that keeps the weights with the highest meta-gradient.

    All steps are in memory at once.

    Args:
        model: a converted model with its initial weights; it is not changed.
        density: fraction of all maskable weights that remains.
        batches: inputs and class labels; the first `steps` + 1 are read.
        steps: how long the weights learn; 0 is SNIP.
        lr, momentum: of SGD.
        name, model_seed: of the network and of its initial weights, for the ticket.

    Raises:
        GemkernError: the model has no masked layers, nothing would go, there are too few batches,
            or a saliency is infinite or NaN.
    """
    steps = whole_number("steps", steps, least=0)
    check_range("lr", lr, 0.0)
    check_momentum(momentum, nesterov=False)
    with replica(model, model_seed) as copied:
        count = count_kept(copied, density)
        read = list(first(batches, steps + 1, copied, "ProsPr"))
        keep_highest(
            masked_layers(copied), prospr_saliencies(copied, read, lr, momentum), count, "ProsPr"
        )
    return pruned(model, copied, "prospr", name, model_seed)


def prospr_saliencies(
    model: nn.Module, batches: Sequence[Batch], lr: float, momentum: float = 0.0
) -> list[Tensor]:
    """Return |dL/dc| for each layer of a `replica`.

    L is the loss on the last of `batches`, after a step of SGD on each before it. Whatever learns
    in the model takes these steps.
    """
    weights = weights_of(model)
    learnt: dict[str, Tensor] = {
        name: one for name, one in model.named_parameters() if one.requires_grad
    }
    velocity = {name: torch.zeros_like(one) for name, one in learnt.items()}
    for batch in batches[:-1]:
        loss = _loss(model, learnt, batch)
        grads = torch.autograd.grad(
            loss, list(learnt.values()), create_graph=True, materialize_grads=True
        )
        for name, grad in zip(learnt, grads, strict=True):
            velocity[name] = momentum * velocity[name] + grad
        learnt = {name: one - lr * velocity[name] for name, one in learnt.items()}
    loss = _loss(model, learnt, batches[-1])
    # At c = 1 the weights are the initial ones: dL/dc = w * dL/dw.
    grads = torch.autograd.grad(loss, weights, materialize_grads=True)
    return [(weight.detach() * grad).abs() for weight, grad in zip(weights, grads, strict=True)]


def _loss(model: nn.Module, parameters: dict[str, Tensor], batch: Batch) -> Tensor:
    inputs, labels = batch
    return F.cross_entropy(functional_call(model, parameters, (inputs,)), labels)


@dataclass(frozen=True)
class ProsPrSettings:
    """The settings of ProsPr in a race."""

    prospr_init: str = option("kaiming_normal", "Initial weights of ProsPr.")
    prospr_steps: int = option(3, "Steps of SGD that ProsPr looks ahead.")
    prospr_lr: float = option(0.1, "Learning rate of these steps.")
    prospr_momentum: float = option(0.0, "Momentum of these steps.")


def drawn(start: Start) -> Draw:
    """Return what prunes to as many weights as all tickets keep."""
    own = start.own
    steps = whole_number("prospr_steps", own.prospr_steps, least=0)
    check_range("prospr_lr", own.prospr_lr, 0.0)
    check_momentum(own.prospr_momentum, nesterov=False)
    model = start.converted()
    return partial(
        prospr_ticket,
        model,
        start.weights / start.total,
        start.batches(),
        steps=steps,
        lr=own.prospr_lr,
        momentum=own.prospr_momentum,
        name=start.name,
        model_seed=start.seed,
    )


ENTRY = Entry(drawn, colour="#BCBD22", settings=ProsPrSettings, init="prospr_init")
