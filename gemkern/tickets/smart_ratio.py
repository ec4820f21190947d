"""The smart ratio: random positions, by layer densities that were made out beforehand.

Su et al., "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot", NeurIPS 2020. Of
layer l of L, from 1, the fraction d_l of its weights remains, at places drawn uniformly::

    d_l = f * ((L - l + 1)^2 + (L - l + 1)), at most 1, for l < L
    d_L = 0.3

where f makes them add up, and what a full layer cannot take goes to the next ones. For VGG the term
of l is divided by l^2.

Cost: no step and no pass. Of a layer at a time, a permutation in int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from torch import nn

from gemkern.errors import GemkernError
from gemkern.optim import masked_layers, unwrapped, whole_shape
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.random_ticket import random_masks
from gemkern.tickets.randomness import generator
from gemkern.tickets.schedules import check_density
from gemkern.tickets.ticket import Ticket

LAST_LAYER_DENSITY = 0.3


def smart_ratio_ticket(
    model: nn.Module,
    density: float,
    *,
    seed: int,
    name: str | None = None,
    model_seed: int | None = None,
    vgg: bool | None = None,
) -> Ticket:
    """Return a random ticket for `model` with the layer densities of `smart_ratio_counts`.

    Args:
        model: a converted model with its initial weights; it is not changed.
        density: fraction of all maskable weights that remains.
        seed: draws the positions.
        name, model_seed: of the network and of its initial weights, for the ticket.
        vgg: whether the densities are those of a VGG; None where "vgg" in `name`, or in that of the
            model's class, says so.

    Raises:
        GemkernError: the model has no masked layers, or as `smart_ratio_counts`.
    """
    model = unwrapped(model)
    if vgg is None:
        vgg = "vgg" in (name or type(model).__name__).lower()
    layers = masked_layers(model)
    shapes = {layer_name: whole_shape(layer) for layer_name, layer in layers.items()}
    counts = smart_ratio_counts([shape.numel() for shape in shapes.values()], density, vgg=vgg)
    masks = random_masks(shapes, counts, generator("random ticket", seed))
    return Ticket.from_model(model, method="smart-ratio", masks=masks, name=name, seed=model_seed)


def smart_ratio_counts(
    layer_sizes: Sequence[int], density: float, *, vgg: bool = False
) -> list[int]:
    """Return how many weights each of L layers keeps by the smart ratio; they add up exactly.

    The last layer keeps 30 %. The density of layer l (from 1) before it is proportional to
    (L - l + 1)^2 + (L - l + 1); what a full layer cannot take goes to the next ones. Su et al.,
    "Sanity-Checking Pruning Methods", NeurIPS 2020.

    Args:
        vgg: divide the term of layer l by l^2, as the code of "Rare Gems" (NeurIPS 2022) does for
            VGG.

    Raises:
        GemkernError: fewer than two layers, `density` outside (0, 1), or no more weights than the
            last layer keeps.
    """
    check_density(density)
    if len(layer_sizes) < 2:
        raise GemkernError(
            f"the smart ratio spreads weights over layers and the model has {len(layer_sizes)}: "
            "give one of two or more"
        )
    *sizes, last = layer_sizes
    last_count = round(LAST_LAYER_DENSITY * last)
    budget = round(density * sum(layer_sizes)) - last_count
    if budget < 1:
        raise GemkernError(
            f"at density {density:g} the last layer's 30 %, {last_count} weights, leave nothing "
            "for the others: raise the density"
        )
    shares = []
    for layer, size in enumerate(sizes, start=1):
        step = len(layer_sizes) - layer + 1
        shares.append(Fraction(step * step + step, layer * layer if vgg else 1) * size)
    whole = sum(shares)
    counts = [budget * share // whole for share in shares] + [last_count]
    return _fill(counts, layer_sizes, spare=budget + last_count - sum(counts))


def _fill(counts: Sequence[int], sizes: Sequence[int], spare: int) -> list[int]:
    """Hand `spare` weights, and those of overfull layers, to the first layers with room."""
    filled = []
    for count, size in zip(counts, sizes, strict=True):
        moved = min(spare, size - count)
        filled.append(count + moved)
        spare -= moved
    return filled


@dataclass(frozen=True)
class SmartRatioSettings:
    """The settings of the smart ratio in a race."""

    smart_ratio_init: str = option("kaiming_normal", "Initial weights of the smart ratio.")


def drawn(start: Start) -> Draw:
    """Return what draws as many weights as all tickets keep."""
    model = start.converted()
    density = start.weights / start.total
    return partial(
        smart_ratio_ticket,
        model,
        density,
        seed=start.seed,
        name=start.name,
        model_seed=start.seed,
    )


ENTRY = Entry(drawn, colour="#CC79A7", settings=SmartRatioSettings, init="smart_ratio_init")
