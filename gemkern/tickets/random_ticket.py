"""Random tickets: how good is a ticket of which only the layer densities were chosen?

With m the mask of a layer in another's ticket, whose weights stay::

    m' = sum(m) places of the layer, drawn uniformly

Cost: no step and no pass beside the other's search. Of a layer at a time, a permutation in int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
    shapes = {name: mask.shape for name, mask in ticket.masks.items()}
    counts = [int(mask.sum()) for mask in ticket.masks.values()]
    masks = random_masks(shapes, counts, generator("random ticket", seed))
    return dataclasses.replace(ticket, masks=masks, method="random")


def random_masks(
    shapes: Mapping[str, torch.Size], counts: Sequence[int], stream: torch.Generator
) -> dict[str, Tensor]:
    """Return a `random_mask` for each layer: its shape, by name, and its count."""
    return {
        name: random_mask(shape, count, stream)
        for (name, shape), count in zip(shapes.items(), counts, strict=True)
    }


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
