"""What methods have in common that prune at initialisation by how much each weight matters.

A saliency is one number for each weight, computed with the initial weights; the highest, over the
whole network, remain. What is computed is computed on a copy: nothing of the model changes. It is a
function of weights and batches: ranks that train together, given the same, come to the same ticket.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.nn import decelerate
from gemkern.optim import masked_layers, unwrapped
from gemkern.tickets.schedules import check_density
from gemkern.tickets.search import remove_lowest
from gemkern.tickets.ticket import Ticket
from gemkern.training.numerics import reproducible_numerics
from gemkern.training.randomness import own_random_numbers

# Inputs and class labels.
Batch = tuple[Tensor, Tensor]


@contextmanager
def replica(model: nn.Module, seed: int | None) -> Iterator[nn.Module]:
    """Lend a copy of a converted model, in training mode, on which gradients have gradients.

    Its layers compute, as dense ones do, with the weights that are active, without scores. The
    random numbers that the body draws (dropout, an order of batches) begin from `seed`; those of
    the process go on as if it had drawn none.

    Raises:
        GemkernError: the model has no masked layers.
    """
    copied = copy.deepcopy(unwrapped(model)).train()
    decelerate(copied)
    layers = masked_layers(copied).values()
    for layer in layers:
        if layer.scores is not None:
            layer.drop_scores()
        layer.weight.requires_grad_(True)
        layer.override = _active_weight
    device = next(iter(layers)).weight.device
    numbers = own_random_numbers(0 if seed is None else seed, device)
    with numbers, reproducible_numerics(), torch.enable_grad():
        yield copied


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return the weights of the masked layers, in order."""
    return [layer.weight for layer in masked_layers(model).values()]


def first(batches: Iterable[Batch], number: int, model: nn.Module, method: str) -> Iterator[Batch]:
    """Yield the first `number` batches, on the device of `model`.

    Raises:
        GemkernError: there are fewer.
    """
    read = 0
    for batch in islice(batches, number):
        read += 1
        yield brought(batch, model)
    if read < number:
        raise GemkernError(
            f"{method} computes with {number} batches and was given {read}: give more, or let it "
            "compute with fewer"
        )


def brought(batch: Batch, model: nn.Module) -> Batch:
    """Return inputs and labels on the device of `model`."""
    inputs, labels = batch
    device = weights_of(model)[0].device
    return inputs.to(device), labels.to(device)


def count_kept(model: nn.Module, density: float) -> int:
    """Return how many weights remain at `density`: at least one.

    Raises:
        GemkernError: `density` is not between 0 and 1, or no weight would go.
    """
    check_density(density)
    active = [layer.active for layer in masked_layers(model).values()]
    total, left = sum(on.numel() for on in active), _count(active)
    count = max(1, round(density * total))
    if count >= left:
        raise GemkernError(
            f"density {density:g} of {total} weights is no less than the {left} that are active: "
            "there is nothing to prune, lower it"
        )
    return count


def keep_highest(
    layers: Mapping[str, Any], saliencies: Sequence[Tensor], count: int, method: str
) -> None:
    """Let exactly `count` of what is active in `layers` stay so: the highest, over all layers.

    Args:
        saliencies: one for each layer, of its weight's shape.

    Raises:
        GemkernError: a saliency is infinite or NaN, which names its layer.
    """
    sound = torch.stack([values.isfinite().all() for values in saliencies]).tolist()
    for name, is_sound in zip(layers, sound, strict=True):
        if not is_sound:
            raise GemkernError(
                f"layer {name!r} has a saliency of {method} that is infinite or NaN: check the "
                "initial weights, the loss and the data"
            )
    active = [layer.active for layer in layers.values()]
    remove_lowest(saliencies, active, _count(active) - count)


def pruned(
    model: nn.Module, copied: nn.Module, method: str, name: str | None, seed: int | None
) -> Ticket:
    """Return the ticket of the weights of `model` and the masks of its copy."""
    masks = {layer_name: layer.active for layer_name, layer in masked_layers(copied).items()}
    return Ticket.from_model(model, method=method, masks=masks, name=name, seed=seed)


def _active_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    return layer.weight.where(layer.active, 0.0).to(dtype)


def _count(active: Sequence[Tensor]) -> int:
    return int(torch.stack([on.sum() for on in active]).sum())
