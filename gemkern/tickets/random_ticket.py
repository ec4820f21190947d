"""Random tickets: how good is a ticket of which only the layer densities were chosen?"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from gemkern.tickets.entry import Draw, Entry, Start
from gemkern.tickets.randomness import RIVAL_SEED, generator
from gemkern.tickets.ticket import Ticket


def random_ticket(ticket: Ticket, *, seed: int) -> Ticket:
    """Return a ticket with as many weights in each layer as `ticket`, at random positions.

    Weights, model and model seed are those of `ticket`; `seed` draws the positions.
    """
    stream = generator("random ticket", seed)
    masks = {
        name: random_mask(mask.shape, int(mask.sum()), stream)
        for name, mask in ticket.masks.items()
    }
    return dataclasses.replace(ticket, masks=masks, method="random")


def random_mask(shape: torch.Size, count: int, stream: torch.Generator) -> Tensor:
    """Return a bool mask of `shape` with exactly `count` true entries, drawn uniformly."""
    order = torch.randperm(shape.numel(), generator=stream)
    mask = torch.zeros(shape.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.reshape(shape)


def drawn(start: Start) -> Draw:
    """Return what draws random positions, as many in each layer as the mined ticket has."""
    assert start.ticket is not None
    return partial(random_ticket, start.ticket, seed=RIVAL_SEED + start.seed)


ENTRY = Entry(drawn, colour="#009E73", needs="gem-miner")
