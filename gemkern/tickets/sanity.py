"""Sanity checks of a ticket: does it know more than its layer densities, and its own weights?

Frankle et al., "Pruning Neural Networks at Initialization", ICLR 2021; used in "Rare Gems", section
4 and Figure 3. A ticket that loses nothing by them is no better than a random one.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import nn

from gemkern.tickets.entry import Draw, Entry, Start
from gemkern.tickets.randomness import RIVAL_SEED, generator
from gemkern.tickets.ticket import Ticket


def shuffled(ticket: Ticket, *, seed: int) -> Ticket:
    """Return `ticket` with the mask of each layer permuted within the layer, by `seed`.

    With m the mask of a layer, flat, and pi a permutation drawn uniformly::

        m' = m[pi]

    Cost: no step and no pass beside the other's search. Of a layer at a time, pi in int64.
    """
    stream = generator("shuffle", seed)
    masks = {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=stream)].reshape(mask.shape)
        for name, mask in ticket.masks.items()
    }
    return dataclasses.replace(ticket, masks=masks, method="shuffled")


def reinitialised(ticket: Ticket, fresh: nn.Module, *, model_seed: int | None = None) -> Ticket:
    """Return the masks of `ticket` over the weights of `fresh`, which `model_seed` initialised.

    With m the masks of the ticket, and its weights drawn anew as they were drawn::

        m' = m, w = those of `fresh`

    Cost: no step and no pass beside the other's search. The second network.

    Args:
        fresh: a model of the same architecture, converted or not; it is not changed.

    Raises:
        GemkernError: `fresh` has not the layers of `ticket`.
    """
    ticket.check_layers(fresh)
    return Ticket.from_model(
        fresh,
        method="reinitialised",
        masks=ticket.masks,
        name=ticket.model,
        seed=model_seed,
    )


def permuted(start: Start) -> Draw:
    """Return what permutes the mined ticket's mask within each layer."""
    assert start.ticket is not None
    return partial(shuffled, start.ticket, seed=2 * RIVAL_SEED + start.seed)


def begun_anew(start: Start) -> Draw:
    """Return what keeps the mined masks over other initial weights of the same kind."""
    assert start.ticket is not None
    seed = RIVAL_SEED + start.seed
    draw = start.redrawn or start.fresh
    return partial(reinitialised, start.ticket, draw(seed), model_seed=seed)


SHUFFLED = Entry(permuted, colour="#E69F00", needs="gem-miner")
REINITIALISED = Entry(begun_anew, colour="#56B4E9", needs="gem-miner")
