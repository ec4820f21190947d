"""GraSP: prune once, at initialisation, what the flow of gradients does not miss.

Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR
2020, section 4 and Algorithm 1. With g the gradient of the loss L by the weights w and H its
Hessian, S says how the flow of gradients, g * g, changes where a weight is removed (equations 6 to
8); weights with the highest S go::

    S(-w) = -w * (H g)
    m = S is among the round(density * total) lowest of the network

The loss is that of the logits divided by a temperature, on as many examples of each class (the
authors take 10, and 200).

Cost: a forward pass of one image, to count classes; then for each part of the examples, a batch at
most, two forward and three backward passes, one of them through another, whose graph is in memory.
While they last, a copy of the network, and for each weight float32 g and saliency, and a product
H g for each part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.optim import masked_layers
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.saliency import (
    Batch,
    brought,
    count_kept,
    keep_highest,
    pruned,
    replica,
    weights_of,
)
from gemkern.tickets.ticket import Ticket

# Batches in a row without an example that is wanted, after which no more are read: they may have no
# end.
PATIENCE = 1000


def grasp_ticket(
    model: nn.Module,
    density: float,
    batches: Iterable[Batch],
    *,
    samples: int = 10,
    temperature: float = 200.0,
    name: str | None = None,
    model_seed: int | None = None,
) -> Ticket:
    """Return the ticket that keeps the weights with the lowest S of GraSP.

    Args:
        model: a converted model with its initial weights, which returns logits [B, classes]; it is
            not changed.
        density: fraction of all maskable weights that remains.
        batches: inputs and class labels; the first examples of each class are taken.
        samples: how many examples of each class.
        temperature: divides the logits.
        name, model_seed: of the network and of its initial weights, for the ticket.

    Raises:
        GemkernError: the model has no masked layers, nothing would go, a class has too few
            examples, or a saliency is infinite or NaN.
    """
    samples = whole_number("samples", samples, least=1)
    _check_temperature("temperature", temperature)
    with replica(model, model_seed) as copied:
        count = count_kept(copied, density)
        saliencies = grasp_saliencies(copied, examples(copied, batches, samples), temperature)
        keep_highest(masked_layers(copied), saliencies, count, "GraSP")
    return pruned(model, copied, "grasp", name, model_seed)


def grasp_saliencies(model: nn.Module, parts: Sequence[Batch], temperature: float) -> list[Tensor]:
    """Return w * (H g), which is -S, for each layer of a `replica`.

    The loss is the mean over the examples of all `parts`, which are computed one by one: a part is
    what memory has to hold, and what batch norms normalise.
    """
    weights = weights_of(model)
    total = sum(len(labels) for _, labels in parts)

    def gradient(part: Batch, differentiable: bool) -> Sequence[Tensor]:
        inputs, labels = part
        loss = F.cross_entropy(model(inputs) / temperature, labels) * (len(labels) / total)
        return torch.autograd.grad(
            loss, weights, create_graph=differentiable, materialize_grads=True
        )

    whole = _added([gradient(part, False) for part in parts])
    products = []
    for part in parts:
        along = [(one * g).sum() for one, g in zip(gradient(part, True), whole, strict=True)]
        norm = torch.stack(along).sum()
        products.append(torch.autograd.grad(norm, weights, materialize_grads=True))
    return [w.detach() * product for w, product in zip(weights, _added(products), strict=True)]


def examples(model: nn.Module, batches: Iterable[Batch], samples: int) -> list[Batch]:
    """Return the first `samples` examples of each class that `model` tells apart.

    Returns:
        parts of about one size, none larger than the first batch.

    Raises:
        GemkernError: the batches end before, or bring nothing that is wanted any more; or a label
            is no class.
    """
    taken: Counter[int] = Counter()
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    classes, largest, idle = 1, 1, 0
    for batch in batches:
        some, theirs = brought(batch, model)
        if not inputs:
            classes, largest = _classes(model, some), len(some)
        places = _wanted(theirs, classes, samples, taken)
        inputs.append(some[places])
        labels.append(theirs[places])
        idle = 0 if places else idle + 1
        if taken.total() == samples * classes or idle == PATIENCE:
            break
    scarce = [one for one in range(classes) if taken[one] < samples]
    if scarce:
        raise GemkernError(
            f"GraSP computes with {samples} examples of each class and the batches brought "
            f"{taken[scarce[0]]} of class {scarce[0]}: give more batches, of all classes, or let "
            "it take fewer"
        )
    count = math.ceil(samples * classes / largest)
    parts = zip(
        torch.cat(inputs).tensor_split(count), torch.cat(labels).tensor_split(count), strict=True
    )
    return list(parts)


def _wanted(labels: Tensor, classes: int, samples: int, taken: Counter[int]) -> list[int]:
    """Return the places of examples whose class has not `samples` yet, and count them."""
    places = []
    for place, label in enumerate(labels.tolist()):
        if label not in range(classes):
            raise GemkernError(
                f"a label is {label} where GraSP takes examples by class and the model tells "
                f"{classes} apart: give labels from 0 to {classes - 1}, one for each example"
            )
        if taken[label] < samples:
            taken[label] += 1
            places.append(place)
    return places


def _classes(model: nn.Module, inputs: Tensor) -> int:
    """Return how many classes `model`, which is in training mode, tells apart."""
    model.eval()
    with torch.no_grad():
        classes = model(inputs[:1]).shape[1]
    model.train()
    return classes


def _added(lists: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [reduce(torch.add, tensors) for tensors in zip(*lists, strict=True)]


def _check_temperature(name: str, temperature: float) -> None:
    if not 0.0 < temperature < math.inf:
        raise GemkernError(f"{name} is {temperature:g}: give a positive number, such as 200")


@dataclass(frozen=True)
class GraSPSettings:
    """The settings of GraSP in a race."""

    grasp_init: str = option("kaiming_normal", "Initial weights of GraSP.")
    grasp_samples: int = option(10, "Examples of each class that GraSP computes with.")
    grasp_temperature: float = option(200.0, "What GraSP divides logits by.")


def drawn(start: Start) -> Draw:
    """Return what prunes to as many weights as all tickets keep."""
    samples = whole_number("grasp_samples", start.own.grasp_samples, least=1)
    _check_temperature("grasp_temperature", start.own.grasp_temperature)
    model = start.converted()
    return partial(
        grasp_ticket,
        model,
        start.weights / start.total,
        start.batches(),
        samples=samples,
        temperature=start.own.grasp_temperature,
        name=start.name,
        model_seed=start.seed,
    )


ENTRY = Entry(drawn, colour="#E377C2", settings=GraSPSettings, init="grasp_init")
