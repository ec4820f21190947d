"""Layers compressed to the weights that remain: the same function, the same state_dict."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.nn import MaskedConv2d, MaskedLinear
from gemkern.optim import MaskedSGD, ScoreAdam, carrying

LAYERS = {
    "conv": (lambda **kw: MaskedConv2d(4, 6, 3, stride=2, padding=1, groups=2, **kw), (5, 4, 7, 6)),
    "reflected": (
        lambda **kw: MaskedConv2d(4, 4, 3, padding=2, padding_mode="reflect", bias=False, **kw),
        (5, 4, 7, 6),
    ),
    "same": (lambda **kw: MaskedConv2d(3, 5, (2, 3), padding="same", **kw), (5, 3, 7, 6)),
    "linear": (lambda **kw: MaskedLinear(9, 4, **kw), (5, 9)),
    "rows": (lambda **kw: MaskedLinear(9, 4, bias=False, **kw), (2, 3, 9)),
    "vector": (lambda **kw: MaskedLinear(9, 4, **kw), (9,)),
}


def pair(name: str, scores: bool) -> tuple[Any, Any, Tensor]:
    """Return a layer, its twin and an input; a third of the weights remains."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make(scores=scores)
    layer.active.copy_(torch.rand(layer.active.shape) < 0.33)
    if scores:
        with torch.no_grad():
            layer.scores.mul_(layer.active)
    return layer, copy.deepcopy(layer), torch.randn(shape)


def run(layer: Any, x: Tensor) -> list[Tensor]:
    """Return the output and the gradients to x and to the layer, spread to the whole weight."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    gradients = torch.autograd.grad((y * weights).sum(), [x, *parameters])
    return [y.detach(), gradients[0], *(layer.spread(gradient) for gradient in gradients[1:])]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scores", [True, False])
def test_it_computes_the_same(name: str, scores: bool) -> None:
    layer, twin, x = pair(name, scores)
    layer.compress()
    assert layer.is_compressed
    assert layer.weight.dim() == 1
    for one, other in zip(run(layer, x), run(twin, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scores", [True, False])
def test_expanding_undoes_it(name: str, scores: bool) -> None:
    layer, twin, x = pair(name, scores)
    parameters = dict(layer.named_parameters())
    layer.compress()
    assert layer.state_dict().keys() == twin.state_dict().keys()
    for entry, value in twin.state_dict().items():
        assert torch.equal(layer.state_dict()[entry], value)
    layer.expand()
    assert not layer.is_compressed
    assert {name: id(p) for name, p in layer.named_parameters()} == {
        name: id(p) for name, p in parameters.items()
    }
    for entry, value in twin.state_dict().items():
        assert torch.equal(layer.state_dict()[entry], value)
    assert torch.equal(layer(x), twin(x))
    assert [*dict(layer.named_buffers())] == [*dict(twin.named_buffers())]


def test_a_channels_last_weight_keeps_its_strides() -> None:
    layer = MaskedConv2d(4, 6, 3).to(memory_format=torch.channels_last)
    layer.active.copy_(torch.rand(layer.active.shape) < 0.5)
    before = layer.weight.detach().clone()
    layer.compress()
    assert torch.equal(layer.state_dict()["weight"], before)
    layer.expand()
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer.weight, before)


def test_further_freezing_compresses_further() -> None:
    layer, twin, x = pair("conv", scores=True)
    layer.compress()
    kept = torch.arange(layer.active.numel()) % 2 == 0
    twin.active[twin.active.clone()] = kept
    layer.active.copy_(kept)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-4, atol=1e-5)
    layer.compress()
    assert layer.weight.numel() == int(kept.sum())
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.state_dict()["active"], twin.active)


def test_a_state_is_loaded_where_it_remains() -> None:
    layer, twin, x = pair("conv", scores=True)
    layer.compress()
    other, _, _ = pair("conv", scores=True)
    with torch.no_grad():
        other.weight.mul_(3)
        other.scores.sub_(0.1).clamp_(0, 1)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), other(x), rtol=1e-4, atol=1e-5)
    layer.expand()
    assert torch.equal(layer.weight, other.weight)
    assert not torch.equal(layer.weight, twin.weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_stay_compressed(copied: Any) -> None:
    layer, _, x = pair("conv", scores=True)
    layer.compress()
    twin = copied(layer)
    assert twin.is_compressed
    assert torch.equal(twin(x), layer(x))
    twin.expand()
    assert layer.is_compressed


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_it_becomes_plain(name: str) -> None:
    layer, twin, x = pair(name, scores=True)
    layer.compress()
    plain = layer.to_dense()
    torch.testing.assert_close(plain(x), twin(x), rtol=1e-4, atol=1e-5)


def learn(layer: Any, optimizer: Any, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 9, generator=torch.Generator().manual_seed(step))
        F.mse_loss(layer(x), torch.ones(8, 4)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        lambda layer: ScoreAdam([layer], lr=0.05),
        lambda layer: ScoreAdam([layer], lr=0.05, fused=True),
    ],
)
def test_what_score_optimizers_remember_follows(make: Any) -> None:
    layer, twin, _ = pair("linear", scores=True)
    optimizer, twins = make(layer), make(twin)
    learn(layer, optimizer, range(3))
    learn(twin, twins, range(6))
    with carrying(optimizer, [layer]):
        layer.compress()
    assert optimizer.state[layer.scores]["exp_avg"].shape == layer.scores.shape
    learn(layer, optimizer, range(3, 5))
    with carrying(optimizer, [layer]):
        layer.expand()
    learn(layer, optimizer, range(5, 6))
    torch.testing.assert_close(layer.scores, twin.scores, rtol=1e-4, atol=1e-5)


def test_what_weight_optimizers_remember_follows() -> None:
    layer, twin, _ = pair("linear", scores=False)
    models = [nn.Sequential(one) for one in (layer, twin)]
    optimizer, twins = (MaskedSGD(model, lr=0.1, momentum=0.9) for model in models)
    for model, one in zip(models, (optimizer, twins), strict=True):
        learn(model, one, range(3))
    with carrying(optimizer, [layer]):
        layer.compress()
    for model, one in zip(models, (optimizer, twins), strict=True):
        learn(model, one, range(3, 6))
    layer.expand()
    torch.testing.assert_close(
        layer.weight[layer.active], twin.weight[twin.active], rtol=1e-4, atol=1e-5
    )


def test_an_empty_layer() -> None:
    layer = MaskedConv2d(2, 3, 3)
    layer.active.fill_(False)
    layer.compress()
    y = layer(torch.ones(2, 2, 4, 4))
    assert layer.weight.shape == (0,)
    assert torch.equal(y, layer.bias[:, None, None].expand(2, 3, 2, 2))


def _freeze(layer: Any) -> None:
    with torch.no_grad():
        layer.active[::2] = False


def _replace(layer: Any) -> None:
    layer.active = torch.zeros_like(layer.active)


@pytest.mark.parametrize("change", [_freeze, _replace])
def test_a_mask_that_changes_afterwards_holds(change: Any) -> None:
    layer, _, x = pair("conv", False)
    layer.compress()
    optimizer = MaskedSGD(layer, lr=0.1, momentum=0.9)
    assert layer.values() is layer.weight
    change(layer)
    off = ~layer.active
    assert off.any()
    assert not layer.values()[off].any()
    layer(x).square().sum().backward()
    assert not layer.weight.grad[off].any()
    optimizer.step()
    assert not layer.weight[off].any()
    assert not optimizer.state[layer.weight]["momentum_buffer"][off].any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_the_mask_of_a_copy_holds(copied: Any) -> None:
    layer, _, _ = pair("conv", False)
    # The versions of a copy begin anew, and come to those of the layer again.
    for _ in range(5):
        layer.active.logical_or_(layer.active)
    layer.compress()
    again = copied(layer)
    assert again.active._version < layer.active._version
    while again.active._version <= layer.active._version:
        again.active[0] = False
        assert again.values()[0] == 0
