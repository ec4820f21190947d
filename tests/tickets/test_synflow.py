"""SynFlow: the flow through every layer is the same, and no layer is cut off."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_search import batches, network, same_bits
from torch import Tensor, nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import snip_ticket, synflow_ticket
from gemkern.tickets.saliency import keep_highest, replica
from gemkern.tickets.synflow import linearise, synflow_saliencies, synflow_weights_left


def chain(widths: list[int], seed: int = 0) -> nn.Module:
    """Linear layers with ReLUs between, without biases, converted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
    model = nn.Sequential(*[one for layer in layers for one in (layer, nn.ReLU())][:-1])
    gk.convert(model)
    return model


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 3, bias=False),
    )
    gk.convert(model)
    return model


def saliencies_of(model: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    with replica(model, 0) as copied:
        linearise(copied)
        return synflow_saliencies(copied, shape)


def test_as_much_flows_through_every_layer_as_comes_out() -> None:
    weights = [layer.weight.detach().double().abs() for layer in masked_layers(wide()).values()]
    flow = torch.ones(weights[0].shape[1], dtype=torch.float64)
    for weight in weights:
        flow = weight @ flow
    for saliency in saliencies_of(wide(), (64,)):
        assert saliency.sum().item() == pytest.approx(flow.sum().item(), rel=1e-12)
    sums = [one.sum().item() for one in saliencies_of(convolutions(), (2, 4, 4))]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert sums[0] > 0


def test_a_score_is_what_flows_through_the_weight() -> None:
    model = chain([3, 4, 2])
    first, second = (layer.weight.detach().double().abs() for layer in (model[0], model[2]))
    found = saliencies_of(model, (3,))
    torch.testing.assert_close(found[0], second.sum(0).reshape(-1, 1) * first)
    torch.testing.assert_close(found[1], second * first.sum(1))


def wide() -> nn.Module:
    """Positive weights, and one layer so much larger than the others that each of it matters less.

    What |w * dL/dw| of SNIP has in common with the score of SynFlow: the sum over a layer.
    """
    model = chain([64, 16, 16, 300, 300, 16, 16, 10])
    with torch.no_grad():
        for layer in masked_layers(model).values():
            stream = torch.Generator().manual_seed(layer.in_features)
            drawn = torch.rand(layer.weight.shape, generator=stream) + 0.5
            layer.weight.copy_(drawn / layer.in_features)
    return model


def test_no_layer_is_emptied_where_pruning_at_once_empties_some() -> None:
    stream = torch.Generator().manual_seed(0)
    batch = torch.rand(60, 64, generator=stream), torch.arange(60) % 10
    assert "6" in snip_ticket(wide(), 0.0144, [batch]).empty_layers
    assert "6" in synflow_ticket(wide(), 0.0144, (64,), rounds=1).empty_layers
    ticket = synflow_ticket(wide(), 0.0144, (64,))
    assert ticket.empty_layers == []
    total = sum(mask.numel() for mask in ticket.masks.values())
    assert ticket.weights_left == round(0.0144 * total)
    pruned = wide()
    ticket.apply(pruned)
    assert (pruned(torch.ones(1, 64)) > 0).any(), "something gets through"


def test_each_round_ranks_what_the_last_one_left() -> None:
    model = wide()
    ticket = synflow_ticket(model, 0.1, (64,), rounds=3)
    by_hand = copy.deepcopy(model)
    layers = masked_layers(by_hand)
    total = sum(layer.active.numel() for layer in layers.values())
    for k in (1, 2, 3):
        scores = saliencies_of(by_hand, (64,))
        keep_highest(layers, scores, round(total * 0.1 ** (k / 3)), "a test")
        for layer in layers.values():
            layer.weight.data *= layer.active
    for name, layer in layers.items():
        assert torch.equal(ticket.masks[name], layer.active)
    once = synflow_ticket(model, 0.1, (64,), rounds=1)
    assert not all(torch.equal(once.masks[name], mask) for name, mask in ticket.masks.items())


def test_biases_and_norms_count_by_their_size_and_statistics_as_they_begin() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-2.0, 1.0, 0.5, -0.1]))
        model[1].bias.copy_(torch.tensor([-1.0, 0.3, 0.0, 0.2]))
    plain = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.abs_()
    plain(torch.ones(1, 2, 4, 4, dtype=torch.float64)).sum().backward()
    model.train()
    for images, _ in batches(0):
        model(images)
    gk.convert(model)
    for index, found in zip((0, 4), saliencies_of(model, (2, 4, 4)), strict=True):
        weight = plain[index].weight
        torch.testing.assert_close(found, weight.detach() * weight.grad)
    state = model.state_dict()
    assert not same_bits(state["1.running_mean"], torch.zeros(4)), "the model's own stay"


def test_deep_networks_do_not_overflow_before_float64_does() -> None:
    deep = chain([32] * 80)
    assert saliencies_of(deep, (32,))[0].sum() > torch.finfo(torch.float32).max
    ticket = synflow_ticket(deep, 0.0144, (32,), rounds=10)
    assert ticket.empty_layers == []
    with pytest.raises(GemkernError, match=r"layer '0' has a saliency of SynFlow that is infinite"):
        synflow_ticket(chain([32] * 480), 0.1, (32,))


@given(
    left=st.integers(2, 10**8),
    kept=st.floats(0, 1, exclude_max=True),
    rounds=st.integers(1, 200),
)
@settings(max_examples=100, deadline=None)
def test_the_schedule_falls_to_the_count(left: int, kept: float, rounds: int) -> None:
    count = max(1, int(kept * left))
    plan = synflow_weights_left(left, count, rounds)
    assert len(plan) == rounds
    assert plan[-1] == count
    assert all(after <= before for before, after in pairwise([left, *plan]))


def test_the_schedule_is_exponential() -> None:
    assert synflow_weights_left(10_000, 1, 4) == [1000, 100, 10, 1]
    assert synflow_weights_left(10_000, 144, 2) == [1200, 144]


@pytest.mark.parametrize("plan", [(10, 0, 3), (10, 10, 3), (10, 5, 0)])
def test_schedules_that_cannot_be_are_refused(plan: tuple[int, int, int]) -> None:
    with pytest.raises(GemkernError, match=f"{plan[0]} weights cannot become {plan[1]} in"):
        synflow_weights_left(*plan)
