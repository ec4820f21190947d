"""Erdos-Renyi-Kernel: random positions, by layer densities that follow from the layers' shapes.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity",
Nature Communications 2018, equation 1; with kernels, Evci et al., "Rigging the Lottery", ICML 2020,
section 3 (1). Of layer l the fraction d_l of its weights remains, at places drawn uniformly::

    d_l = f * (n_in + n_out + kh + kw) / (n_in * n_out * kh * kw), at most 1

where f makes them add up; or the same fraction in all layers.

Cost: no step and no pass. Of a layer at a time, a permutation in int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.optim import masked_layers, unwrapped, whole_shape
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.random_ticket import random_masks
from gemkern.tickets.randomness import generator
from gemkern.tickets.schedules import check_density
from gemkern.tickets.ticket import Ticket

# What the number of weights that a layer keeps is proportional to, of its weight's shape.
DISTRIBUTIONS: dict[str, Callable[[Sequence[int]], int]] = {"erk": sum, "uniform": math.prod}


def erk_ticket(
    model: nn.Module,
    kept: float,
    *,
    seed: int,
    name: str | None = None,
    model_seed: int | None = None,
    distribution: str = "erk",
) -> Ticket:
    """Return a random ticket for `model` with the layer densities of `erk_counts`.

    Args:
        model: a converted model with its initial weights; it is not changed.
        kept: how many of all maskable weights remain, an int; or which fraction, a float.
        seed: draws the positions.
        name, model_seed: of the network and of its initial weights, for the ticket.
        distribution: as in `erk_counts`.

    Raises:
        GemkernError: the model has no masked layers, a density that is none, or as `erk_counts`.
    """
    model = unwrapped(model)
    masks = erk_masks(model, kept, seed=seed, distribution=distribution)
    return Ticket.from_model(model, method="erk", masks=masks, name=name, seed=model_seed)


def erk_masks(
    model: nn.Module, kept: float, *, seed: int, distribution: str = "erk"
) -> dict[str, Tensor]:
    """Return the masks of `erk_ticket`, by the qualified names of the layers.

    Raises:
        GemkernError: as `erk_ticket`.
    """
    shapes = {layer_name: whole_shape(layer) for layer_name, layer in masked_layers(model).items()}
    count = _count(kept, sum(shape.numel() for shape in shapes.values()))
    counts = erk_counts(list(shapes.values()), count, distribution)
    return random_masks(shapes, counts, generator("erk", seed))


def erk_counts(shapes: Sequence[Sequence[int]], count: int, distribution: str = "erk") -> list[int]:
    """Return how many weights each layer keeps; they add up to `count`.

    The density of a layer is proportional to (n_in + n_out + kh + kw) / (n_in * n_out * kh * kw),
    that of a linear layer to (n_in + n_out) / (n_in * n_out), where n_in is that of one group.
    Layers that would keep more than they have stay dense, and the factor of the others is larger
    for it. Counts are within 1 of that; but a layer keeps at least one weight if there are as many
    weights as layers.

    Args:
        shapes: of the layers' weights, [n_out, n_in, kh, kw] or [n_out, n_in].
        count: how many weights all layers keep together.
        distribution: "erk", or "uniform" for one density of all layers, the first included.

    Raises:
        GemkernError: an unknown distribution, or fewer than one weight or more than there are.
    """
    check_distribution(distribution)
    sizes = [math.prod(shape) for shape in shapes]
    count = whole_number("the number of weights to keep", count, least=1)
    if count > sum(sizes):
        raise GemkernError(
            f"{count} weights cannot be kept of the {sum(sizes)} that there are: give fewer"
        )
    shares = [DISTRIBUTIONS[distribution](shape) for shape in shapes]
    sparse = list(range(len(sizes)))
    counts = list(sizes)
    while True:
        left = count - sum(sizes) + sum(sizes[i] for i in sparse)
        whole = sum(shares[i] for i in sparse)
        fitting = [i for i in sparse if left * shares[i] <= sizes[i] * whole]
        if fitting == sparse:
            break
        sparse = fitting
    rests = {}
    for i in sparse:
        counts[i], rests[i] = divmod(left * shares[i], whole)
    spare = count - sum(counts)
    for i in sorted(rests, key=lambda i: -rests[i])[:spare]:
        counts[i] += 1
    return _without_empty(counts)


def check_distribution(distribution: str) -> None:
    """Check that there is a distribution of this name.

    Raises:
        GemkernError: there is none.
    """
    if distribution not in DISTRIBUTIONS:
        raise GemkernError(
            f"no distribution of weights over layers is called {distribution!r}: choose one of "
            f"{', '.join(DISTRIBUTIONS)}"
        )


def _without_empty(counts: list[int]) -> list[int]:
    """Give a weight of the largest layer to each that has none, while it has one to spare."""
    for i, count in enumerate(counts):
        if count == 0 and (most := max(counts)) > 1:
            counts[counts.index(most)] -= 1
            counts[i] = 1
    return counts


def _count(kept: float, total: int) -> int:
    """Return how many of `total` weights `kept`, a number or a fraction of them, is."""
    if not isinstance(kept, float):
        return whole_number("the number of weights to keep", kept, least=1)
    check_density(kept)
    return max(1, round(kept * total))


@dataclass(frozen=True)
class ERKSettings:
    """The settings of Erdos-Renyi-Kernel tickets in a race."""

    erk_init: str = option("kaiming_normal", "Initial weights of Erdos-Renyi-Kernel tickets.")
    erk_distribution: str = option("erk", "Of weights over layers: erk or uniform.")


def drawn(start: Start) -> Draw:
    """Return what draws as many weights as all tickets keep."""
    model = start.converted()
    check_distribution(start.own.erk_distribution)
    return partial(
        erk_ticket,
        model,
        start.weights,
        seed=start.seed,
        name=start.name,
        model_seed=start.seed,
        distribution=start.own.erk_distribution,
    )


ENTRY = Entry(drawn, colour="#AEC7E8", settings=ERKSettings, init="erk_init")
