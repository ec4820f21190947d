"""SNIP: the saliency is |dL/dc|, and the highest of the whole network remain."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_search import TOTAL, batches, network
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.tickets import snip_ticket
from gemkern.tickets.saliency import replica
from gemkern.tickets.snip import snip_saliencies

LAYERS = ("0", "4")


def saliencies_of(model: nn.Module, given: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    model = copy.deepcopy(model)
    gk.convert(model)
    with replica(model, 0) as copied:
        return snip_saliencies(copied, given)


def gradients(model: nn.Module, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Those of a plain network, in training mode."""
    model.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    return [model.get_submodule(layer).weight.grad.clone() for layer in LAYERS]


def test_saliencies_are_the_weights_times_their_gradients() -> None:
    batch = next(batches(0))
    model = network()
    found = saliencies_of(model, [batch])
    weights = [model[int(layer)].weight.detach() for layer in LAYERS]
    for saliency, weight, grad in zip(found, weights, gradients(model, batch), strict=True):
        torch.testing.assert_close(saliency, (weight * grad).abs())


def test_gradients_of_several_batches_are_added_before_their_size_is_taken() -> None:
    given = list(batches(0))
    model = network()
    found = saliencies_of(model, given)
    weights = [model[int(layer)].weight.detach() for layer in LAYERS]
    grads = [gradients(model, batch) for batch in given]
    for i, (saliency, weight) in enumerate(zip(found, weights, strict=True)):
        torch.testing.assert_close(saliency, (weight * sum(grad[i] for grad in grads)).abs())
        sizes = sum((weight * grad[i]).abs() for grad in grads)
        assert not torch.allclose(saliency, sizes)


def test_saliencies_are_differences_of_the_loss_by_the_indicators() -> None:
    images, labels = next(batches(0))
    images = images.double()
    model = network().double()
    found = saliencies_of(model, [(images, labels)])

    def loss(layer: str, place: int, c: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.get_submodule(layer).weight.view(-1)[place] *= c
        return F.cross_entropy(moved(images), labels).item()

    for layer, saliency in zip(LAYERS, found, strict=True):
        for place in range(0, saliency.numel(), 11):
            slope = (loss(layer, place, 1 + 1e-5) - loss(layer, place, 1 - 1e-5)) / 2e-5
            assert saliency.view(-1)[place].item() == pytest.approx(abs(slope), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_the_highest_of_the_whole_network_remain(density: float) -> None:
    batch = next(batches(0))
    model = network()
    gk.convert(model)
    ticket = snip_ticket(model, density, [batch])
    flat = torch.cat([one.flatten() for one in saliencies_of(network(), [batch])])
    expected = torch.zeros(TOTAL, dtype=torch.bool)
    expected[flat.topk(round(density * TOTAL)).indices] = True
    found = torch.cat([mask.flatten() for mask in ticket.masks.values()])
    assert torch.equal(found, expected)


def test_no_more_batches_are_read_than_were_asked_for() -> None:
    model = network()
    gk.convert(model)
    given = iter(batches(0))
    snip_ticket(model, 0.1, given)
    assert len(list(given)) == 2


def test_what_the_loss_does_not_depend_on_is_the_first_to_go() -> None:
    class WithUnused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(8, 8)
            self.used = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = WithUnused()
    gk.convert(model)
    ticket = snip_ticket(model, 0.5, batches(0))
    assert ticket.empty_layers == ["unused"]


def test_batch_norms_are_in_training_mode_whatever_the_model_is_in() -> None:
    model = network()
    gk.convert(model)
    trained = snip_ticket(model, 0.1, batches(0))
    model.eval()
    ticket = snip_ticket(model, 0.1, batches(0))
    assert all(torch.equal(ticket.masks[layer], mask) for layer, mask in trained.masks.items())
