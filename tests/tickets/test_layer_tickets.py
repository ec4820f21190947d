"""Layer tickets keep residual blocks whole, and all that no shortcut passes by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.tickets.layer_tickets import CRITERIA, layer_ticket, residual_blocks


def converted(name: str = "resnet8") -> nn.Module:
    model = build(name, classes=10, channels=1, image_size=8, init="kaiming_normal", seed=0)
    gk.convert(model)
    return model


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(20, 1, 8, 8, generator=stream), torch.arange(20) % 10


def sizes(model: nn.Module) -> dict[str, int]:
    return {name: layer.weight.numel() for name, layer in masked_layers(model).items()}


def test_blocks_are_what_a_shortcut_passes_by() -> None:
    assert residual_blocks(converted()) == [
        [f"stages.{stage}.0.conv1", f"stages.{stage}.0.conv2"] for stage in range(3)
    ]
    wide = build("wide_resnet28_2", classes=10, seed=0)
    gk.convert(wide)
    blocks = residual_blocks(wide)
    assert [len(block) for block in blocks] == [2] * 12
    assert not any("shortcut" in name for block in blocks for name in block)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_a_block_is_whole_or_gone(criterion: str, density: float) -> None:
    model = converted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    own, blocks = sizes(model), residual_blocks(model)
    count = round(density * sum(own.values()))
    ticket = layer_ticket(model, count, batches(), criterion=criterion)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert ticket.weights_left <= count
    gone = []
    for block in blocks:
        parts = [ticket.masks[name] for name in block]
        assert all(part.all() for part in parts) or not any(part.any() for part in parts)
        if not parts[0].any():
            gone.append(sum(own[name] for name in block))
    assert min(gone) > count - ticket.weights_left, "no block that is left out would fit"
    inside = {name for block in blocks for name in block}
    assert all(ticket.masks[name].all() for name in own if name not in inside)


def test_the_criterion_decides_which() -> None:
    model = converted("resnet20")
    blocks = residual_blocks(model)
    strongest = blocks[1]
    with torch.no_grad():
        for name in strongest:
            masked_layers(model)[name].weight.mul_(50)
    own = sizes(model)
    others = sum(own.values()) - sum(own[name] for block in blocks for name in block)
    count = others + sum(own[name] for name in strongest)
    ticket = layer_ticket(model, count, criterion="magnitude")
    kept = [block for block in blocks if ticket.masks[block[0]].any()]
    assert kept == [strongest]
    drawn = {layer_ticket(model, count, criterion="random", seed=seed).digest for seed in range(6)}
    assert 1 < len(drawn) <= 3


def test_gradient_flow_is_that_of_a_double_backward_in_float64() -> None:
    model = converted().double()
    blocks = residual_blocks(model)
    inputs, labels = next(batches())
    twin = build("resnet8", classes=10, channels=1, image_size=8, init="kaiming_normal", seed=0)
    twin = twin.double().train()
    names = [name for name in sizes(model)]
    weights = [twin.get_submodule(name).weight for name in names]
    loss = F.cross_entropy(twin(inputs.double()) / 200.0, labels)
    first = torch.autograd.grad(loss, weights, create_graph=True)
    flow = sum((g * g.detach()).sum() for g in first)
    products = torch.autograd.grad(flow, weights)
    values = {n: w.detach() * p for n, w, p in zip(names, weights, products, strict=True)}
    worth = [torch.cat([values[name].flatten() for name in block]).mean() for block in blocks]
    best = blocks[int(torch.stack(worth).argmax())]
    own = sizes(model)
    others = sum(own.values()) - sum(own[name] for block in blocks for name in block)
    count = others + sum(own[name] for name in best)
    examples = [(inputs.double(), labels)]
    ticket = layer_ticket(model, count, examples, samples=2)
    assert all(ticket.masks[name].all() for name in best)


def test_networks_that_cannot_have_one_are_refused() -> None:
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    gk.convert(chain)
    with pytest.raises(GemkernError, match="has no residual blocks"):
        layer_ticket(chain, 100)
    with pytest.raises(GemkernError, match="have 784 weights, which layer tickets keep"):
        layer_ticket(converted(), 500)
    with pytest.raises(GemkernError, match="cannot be chosen by 'taste'"):
        layer_ticket(converted(), 50000, criterion="taste")
