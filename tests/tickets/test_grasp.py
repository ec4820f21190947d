"""GraSP: S(-w) = -w * (H g); the lowest of the whole network remain."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from tiny_search import TOTAL, batches, network
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.tickets import grasp, grasp_ticket
from gemkern.tickets.grasp import examples, grasp_saliencies
from gemkern.tickets.saliency import replica

Batch = tuple[Tensor, Tensor]
TEMPERATURE = 3.0


def saliencies_of(model: nn.Module, parts: list[Batch], temperature: float) -> list[Tensor]:
    model = copy.deepcopy(model)
    gk.convert(model)
    with replica(model, 0) as copied:
        return grasp_saliencies(copied, parts, temperature)


def small() -> nn.Module:
    """A network of which the whole Hessian is soon computed: 28 weights, and biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def points(count: int = 12) -> Batch:
    stream = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 4, dtype=torch.float64, generator=stream),
        torch.arange(count) % 3,
    )


def images() -> Batch:
    inputs, labels = next(batches(0))
    return inputs.double(), labels


def loss_of(model: nn.Module, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(functional_call(model, weights, (batch[0],)) / TEMPERATURE, batch[1])


def test_saliencies_are_those_of_the_whole_hessian() -> None:
    model, batch = small(), points()
    names = ("0.weight", "2.weight")
    weights = torch.cat([model.get_parameter(name).detach().flatten() for name in names])

    def loss(flat: Tensor) -> Tensor:
        first, second = flat[:16].view(4, 4), flat[16:].view(3, 4)
        return loss_of(model, batch, dict(zip(names, (first, second), strict=True)))

    gradient = torch.autograd.functional.jacobian(loss, weights)
    hessian = torch.autograd.functional.hessian(loss, weights)
    found = torch.cat([one.flatten() for one in saliencies_of(model, [batch], TEMPERATURE)])
    torch.testing.assert_close(found, weights * (hessian @ gradient), rtol=1e-9, atol=1e-14)


def test_the_product_is_a_difference_of_gradients_through_norms_too() -> None:
    model, batch = network().double(), images()
    names = ("0.weight", "4.weight")
    initial = {name: model.get_parameter(name).detach() for name in names}

    def gradient(step: float, along: list[Tensor]) -> list[Tensor]:
        moved = {
            name: (weight + step * one).requires_grad_()
            for (name, weight), one in zip(initial.items(), along, strict=True)
        }
        loss = loss_of(model, batch, moved)
        return list(torch.autograd.grad(loss, list(moved.values())))

    along = gradient(0.0, list(initial.values()))
    ahead, behind = (gradient(step, along) for step in (1e-4, -1e-4))
    for saliency, weight, a, b in zip(
        saliencies_of(model, [batch], TEMPERATURE), initial.values(), ahead, behind, strict=True
    ):
        torch.testing.assert_close(saliency, weight * (a - b) / 2e-4, rtol=1e-4, atol=1e-10)


def test_float32_comes_near_to_float64() -> None:
    inputs, labels = images()
    found = saliencies_of(network(), [(inputs.float(), labels)], 200.0)
    for one, exact in zip(found, saliencies_of(network().double(), [images()], 200.0), strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max())


def test_parts_are_the_whole_where_no_norm_sees_the_batch() -> None:
    model, (inputs, labels) = small(), points()
    whole = saliencies_of(model, [(inputs, labels)], TEMPERATURE)
    parts = [(inputs[:5], labels[:5]), (inputs[5:9], labels[5:9]), (inputs[9:], labels[9:])]
    torch.testing.assert_close(saliencies_of(model, parts, TEMPERATURE), whole)


@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_weights_with_the_highest_s_go(density: float) -> None:
    model = network()
    gk.convert(model)
    ticket = grasp_ticket(model, density, batches(0), samples=2, temperature=TEMPERATURE)
    with replica(model, 0) as copied:
        parts = examples(copied, batches(0), 2)
    s = -torch.cat([one.flatten() for one in saliencies_of(network(), parts, TEMPERATURE)])
    expected = torch.ones(TOTAL, dtype=torch.bool)
    expected[s.topk(TOTAL - round(density * TOTAL)).indices] = False
    assert torch.equal(torch.cat([mask.flatten() for mask in ticket.masks.values()]), expected)


def test_the_temperature_is_a_matter_of_the_order() -> None:
    model = network()
    gk.convert(model)
    cold, warm = (
        grasp_ticket(model, 0.1, batches(0), samples=2, temperature=one) for one in (0.1, 200.0)
    )
    assert not all(torch.equal(warm.masks[layer], mask) for layer, mask in cold.masks.items())


def taken(given: Iterator[Batch] | list[Batch], samples: int) -> list[Batch]:
    model = small().float()
    gk.convert(model)
    with replica(model, 0) as copied:
        found = examples(copied, given, samples)
        assert copied.training
    return found


def numbered(labels: list[int], size: int) -> list[Batch]:
    """Examples whose first number is their place."""
    inputs = torch.zeros(len(labels), 4)
    inputs[:, 0] = torch.arange(len(labels))
    return list(zip(inputs.split(size), torch.tensor(labels).split(size), strict=True))


def test_the_first_examples_of_each_class_are_taken_in_parts_no_larger_than_a_batch() -> None:
    given = numbered([0, 0, 0, 1, 0, 1, 1, 2, 0, 0, 2, 2, 2, 1], 4)
    later = iter(given)
    parts = taken(later, 2)
    assert len(list(later)) == 1, "no more are read than are needed"
    assert [len(labels) for _, labels in parts] == [3, 3]
    places = torch.cat([inputs[:, 0] for inputs, _ in parts])
    assert places.tolist() == [0, 1, 3, 5, 7, 10]
    assert torch.cat([labels for _, labels in parts]).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_class_with_too_few_examples_is_refused() -> None:
    with pytest.raises(GemkernError, match=r"3 examples of each class .* brought 2 of class 1: "):
        taken(numbered([0, 1, 0, 2, 0, 1, 2, 2], 4), 3)


def test_batches_without_an_end_that_lack_a_class_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grasp, "PATIENCE", 5)
    given = numbered([0, 1, 0, 1], 2)
    endless = cycle(given)
    with pytest.raises(GemkernError, match="brought 0 of class 2: give more batches"):
        taken(endless, 2)
    late = iter([*given[:1] * 4, *given, *numbered([2, 2], 2)])
    assert sum(len(labels) for _, labels in taken(late, 2)) == 6


@pytest.mark.parametrize("labels", [[0, 3, 1, 2], [0, -1, 1, 2], [[0, 1], [1, 2]]])
def test_what_is_no_class_is_refused(labels: list[int]) -> None:
    with pytest.raises(GemkernError, match="takes examples by class and the model tells 3 apart"):
        taken([(torch.zeros(len(labels), 4), torch.tensor(labels))], 1)
