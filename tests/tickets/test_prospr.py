"""ProsPr: the saliency is |dL/dc| through steps of SGD that begin from c * w."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_search import TOTAL, batches, network
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.tickets import prospr_ticket, snip_ticket
from gemkern.tickets.prospr import prospr_saliencies
from gemkern.tickets.saliency import replica
from gemkern.tickets.snip import snip_saliencies

Batch = tuple[Tensor, Tensor]
LAYERS = ("0", "4")


def in_float64(count: int) -> list[Batch]:
    return [(images.double(), labels) for images, labels in [*batches(0), *batches(1)][:count]]


def saliencies_of(
    model: nn.Module, given: list[Batch], lr: float, momentum: float = 0.0
) -> list[Tensor]:
    model = copy.deepcopy(model)
    gk.convert(model)
    with replica(model, 0) as copied:
        return prospr_saliencies(copied, given, lr, momentum)


def smooth() -> nn.Module:
    """A network without the kinks that a difference may step over."""
    model = network().double()
    model[2] = nn.Tanh()
    return model


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (3, 0.0), (3, 0.9)])
def test_meta_gradients_are_differences_of_the_loss_after_the_steps(
    steps: int, momentum: float
) -> None:
    model, given = smooth(), in_float64(steps + 1)
    found = saliencies_of(model, given, 0.2, momentum)

    def loss(layer: str, place: int, c: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.get_submodule(layer).weight.view(-1)[place] *= c
        optimizer = torch.optim.SGD(moved.parameters(), lr=0.2, momentum=momentum)
        for images, labels in given[:-1]:
            optimizer.zero_grad()
            F.cross_entropy(moved(images), labels).backward()
            optimizer.step()
        images, labels = given[-1]
        return F.cross_entropy(moved(images), labels).item()

    for layer, saliency in zip(LAYERS, found, strict=True):
        for place in range(0, saliency.numel(), 17):
            slope = (loss(layer, place, 1 + 1e-4) - loss(layer, place, 1 - 1e-4)) / 2e-4
            assert saliency.view(-1)[place].item() == pytest.approx(abs(slope), rel=1e-4, abs=1e-8)


def test_without_steps_it_is_snip() -> None:
    given = list(batches(0))
    model = network()
    gk.convert(model)
    with replica(model, 0) as copied:
        snip = snip_saliencies(copied, given[:1])
    assert all(map(torch.equal, saliencies_of(network(), given[:1], 0.1), snip))
    looking, single = prospr_ticket(model, 0.1, given, steps=0), snip_ticket(model, 0.1, given)
    assert all(torch.equal(looking.masks[layer], mask) for layer, mask in single.masks.items())
    ahead = prospr_ticket(model, 0.1, given, steps=2, lr=1.0)
    assert not all(torch.equal(ahead.masks[layer], mask) for layer, mask in single.masks.items())


@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_the_highest_of_the_whole_network_remain(density: float) -> None:
    model = network()
    gk.convert(model)
    given = [*batches(0), *batches(1)]
    ticket = prospr_ticket(model, density, given, steps=3, lr=0.2)
    flat = torch.cat([one.flatten() for one in saliencies_of(network(), given[:4], 0.2)])
    expected = torch.zeros(TOTAL, dtype=torch.bool)
    expected[flat.topk(round(density * TOTAL)).indices] = True
    assert torch.equal(torch.cat([mask.flatten() for mask in ticket.masks.values()]), expected)


def test_a_batch_is_read_for_each_step_and_one_for_the_loss() -> None:
    model = network()
    gk.convert(model)
    given = iter([*batches(0), *batches(1)])
    prospr_ticket(model, 0.1, given, steps=3)
    assert len(list(given)) == 2


def test_what_is_fixed_takes_no_steps() -> None:
    model, given = smooth(), in_float64(3)
    free = saliencies_of(model, given, 0.5)
    for parameter in (model[1].weight, model[1].bias, model[4].bias):
        parameter.requires_grad_(False)
    fixed = saliencies_of(model, given, 0.5)
    assert not any(map(torch.allclose, free, fixed))
