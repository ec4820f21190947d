"""Layer tickets: whole residual blocks remain, chosen at initialisation.

Jordao et al., "When Layers Play the Lottery, all Tickets Win at Initialization", ICCV Workshops
2023: layers are removed where a shortcut passes them by, by a criterion of pruning at
initialisation (they take GraSP's among others). A block without weights is its shortcut alone::

    s = mean of w * (H g) over the block (GraSP), or of |w|, or random
    m = all that is in no block, then whole blocks by s, each where there is room for it

Cost: by GraSP's criterion that of GraSP, by the others no pass. While it lasts, a copy of the
network and a float32 number for each weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.optim import is_masked, masked_layers
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.grasp import examples, grasp_saliencies
from gemkern.tickets.saliency import Batch, pruned, replica
from gemkern.tickets.ticket import Ticket

CRITERIA = ("grasp", "magnitude", "random")
# What a block calls the way around its layers.
SHORTCUTS = ("shortcut", "downsample", "skip")


def layer_ticket(
    model: nn.Module,
    count: int,
    batches: Iterable[Batch] = (),
    *,
    criterion: str = "grasp",
    samples: int = 10,
    temperature: float = 200.0,
    seed: int = 0,
    name: str | None = None,
    model_seed: int | None = None,
) -> Ticket:
    """Return the ticket that keeps whole residual blocks, and all that is in none.

    Blocks are kept from the highest mean of the criterion on, each where there is room for it: the
    ticket has `count` weights or fewer, by less than the smallest block that is left out.

    Args:
        model: a converted model with its initial weights; it is not changed.
        count: how many weights the ticket may keep.
        batches: inputs and class labels, for "grasp".
        criterion: "grasp" (the mean of w * (H g) over a block's weights), "magnitude" (that of |w|)
            or "random".
        samples, temperature: of `gemkern.tickets.grasp.grasp_ticket`.
        seed: of "random".
        name, model_seed: of the network and of its initial weights, for the ticket.

    Raises:
        GemkernError: an unknown criterion, a model without blocks, or one whose other layers have
            more weights than `count`.
    """
    check_criterion(criterion)
    blocks = check_blocks(model, count)
    with replica(model, model_seed) as copied:
        layers = masked_layers(copied)
        if criterion == "grasp":
            values = grasp_saliencies(copied, examples(copied, batches, samples), temperature)
        else:
            values = [layer.weight.detach().abs() for layer in layers.values()]
        by_layer = dict(zip(layers, values, strict=True))
        worth = [_mean([by_layer[one] for one in block]) for block in blocks]
        if criterion == "random":
            stream = torch.Generator().manual_seed(whole_number("the seed", seed))
            worth = torch.rand(len(blocks), generator=stream).tolist()
        room = count - sum(by_layer[one].numel() for one in _others(model, blocks))
        for block in sorted(range(len(blocks)), key=lambda block: -worth[block]):
            size = sum(by_layer[one].numel() for one in blocks[block])
            if size <= room:
                room -= size
                continue
            for one in blocks[block]:
                layers[one].active.fill_(False)
    return pruned(model, copied, "layer-tickets", name, model_seed)


def residual_blocks(model: nn.Module) -> list[list[str]]:
    """Return the masked layers of each residual block, by name: those that a shortcut passes by.

    A block is a module, not the model itself, that has two masked layers or more as its own and a
    shortcut beside them.
    """
    masked = set(masked_layers(model))
    blocks = []
    for name, module in model.named_modules():
        own = [child for child, one in module.named_children() if is_masked(one)]
        inside = [f"{name}.{child}" for child in own if child not in SHORTCUTS]
        passes_by = any(hasattr(module, shortcut) for shortcut in SHORTCUTS)
        if name and passes_by and len(inside) >= 2 and masked.issuperset(inside):
            blocks.append(inside)
    return blocks


def check_blocks(model: nn.Module, count: int) -> list[list[str]]:
    """Return the residual blocks of a model that can have a layer ticket of `count` weights.

    Raises:
        GemkernError: it has no blocks, or its other layers have more weights.
    """
    blocks = residual_blocks(model)
    if not blocks:
        raise GemkernError(
            f"the model {type(model).__name__} has no residual blocks that could be left out whole:"
            " take another method, or a residual network"
        )
    layers = masked_layers(model)
    least = sum(layers[name].weight.numel() for name in _others(model, blocks))
    if least > count:
        raise GemkernError(
            f"layers outside of residual blocks have {least} weights, which layer tickets keep, "
            f"and the ticket may keep {count}: raise the density"
        )
    return blocks


def check_criterion(criterion: str) -> None:
    """Check that blocks can be chosen by `criterion`.

    Raises:
        GemkernError: they cannot.
    """
    if criterion not in CRITERIA:
        raise GemkernError(
            f"blocks cannot be chosen by {criterion!r}: give one of {', '.join(CRITERIA)}"
        )


def _others(model: nn.Module, blocks: Sequence[Sequence[str]]) -> list[str]:
    inside = {name for block in blocks for name in block}
    return [name for name in masked_layers(model) if name not in inside]


def _mean(values: Sequence[Tensor]) -> float:
    return torch.cat([one.flatten() for one in values]).double().mean().item()


@dataclass(frozen=True)
class LayerTicketSettings:
    """The settings of layer tickets in a race."""

    layer_init: str = option("kaiming_normal", "Initial weights of layer tickets.")
    layer_criterion: str = option("grasp", f"What blocks are chosen by: {', '.join(CRITERIA)}.")


def drawn(start: Start) -> Draw:
    """Return what keeps as many whole blocks as the weights of all tickets allow."""
    model = start.converted()
    check_criterion(start.own.layer_criterion)
    check_blocks(model, start.weights)
    return partial(
        layer_ticket,
        model,
        start.weights,
        start.batches(),
        criterion=start.own.layer_criterion,
        seed=start.seed,
        name=start.name,
        model_seed=start.seed,
    )


ENTRY = Entry(drawn, colour="#C7C7C7", settings=LayerTicketSettings, init="layer_init")
