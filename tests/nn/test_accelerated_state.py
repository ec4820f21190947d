"""The state of accelerated models: loaded, copied, moved, averaged, drawn anew."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerated_models import images, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gemkern as gk
from gemkern.optim import MaskedSGD, ScoreAdam, ScoreSGD, carrying, masked_layers


def other_network(seed: int = 5) -> nn.Module:
    """Return the network under other masks, with other weights."""
    model = network("resnet8")
    stream = torch.Generator().manual_seed(seed)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=stream) < 0.1)
        layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=stream) * layer.active)
    return model


def learn(model: nn.Module, optimizer: Any, seeds: range) -> None:
    for seed in seeds:
        F.cross_entropy(model(images(seed)), torch.arange(20) % 5).backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    assert not [key for key in state if not torch.equal(state[key], expected[key])]


def test_masks_that_are_loaded_replace_those_that_are_there() -> None:
    model, source = gk.accelerate(network("resnet8")), other_network()
    parameters = list(model.parameters())
    loss = model(images(0)).sum()
    loss.backward()
    model.load_state_dict(source.state_dict())
    assert_same_state(model, source)
    assert all(layer.is_compressed for layer in masked_layers(model).values())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(
        model.eval()(images(1)), source.eval()(images(1)), rtol=1e-3, atol=1e-4
    )
    learn(model.train(), MaskedSGD(model, lr=0.1), range(2))


def test_a_mask_that_is_loaded_alone_or_not_at_all() -> None:
    layer = gk.MaskedConv2d(3, 4, 3)
    layer.active.view(-1)[::2] = False
    layer.compress()
    whole = layer.state_dict()
    active = ~whole["active"]
    layer.load_state_dict({**whole, "active": active})
    assert torch.equal(layer.state_dict()["active"], active)
    assert torch.equal(layer.state_dict()["weight"], whole["weight"])
    del whole["active"]
    layer.load_state_dict(whole)
    assert torch.equal(layer.state_dict()["active"], active)


def test_the_same_masks_change_no_shape() -> None:
    model = gk.accelerate(network("resnet8"))
    places = [one.data_ptr() for one in model.parameters()]
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert [one.data_ptr() for one in model.parameters()] == places


OPTIMIZERS: dict[str, tuple[bool, Callable[[nn.Module], Any]]] = {
    "weights": (False, lambda model: MaskedSGD(model, lr=0.05, momentum=0.9)),
    "scores by SGD": (True, lambda model: ScoreSGD(model, lr=0.1)),
    "scores by Adam": (True, lambda model: ScoreAdam(model, lr=0.1, fused=True)),
}


def searched(scores: bool) -> nn.Module:
    model = network("resnet8")
    if scores:
        masks = {name: layer.active.clone() for name, layer in masked_layers(model).items()}
        model = gk.models.build("resnet8", seed=0, affine=True, image_size=8)
        gk.convert(model, scores=True)
        for name, layer in masked_layers(model).items():
            torch.manual_seed(1)
            layer.reset_scores()
            layer.active.copy_(masks[name])
            layer.scores.data.mul_(layer.active)
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("to_dense", [True, False])
def test_optimizers_load_across_forms(name: str, to_dense: bool) -> None:
    scores, make = OPTIMIZERS[name]
    model = searched(scores)
    optimizer = make(model)
    learn(model, optimizer, range(2))
    if to_dense:
        with carrying(optimizer, masked_layers(model).values()):
            gk.accelerate(model)
        learn(model, optimizer, range(2, 3))
    state = optimizer.state_dict()
    whole = [layer.whole_shape for layer in masked_layers(model).values()]
    kept = [memory for memory in state["state"].values() if memory]
    sizes = [tuple(one.shape) for memory in kept for one in memory.values() if one.dim() > 1]
    assert set(sizes) >= set(whole)
    other = searched(scores)
    other.load_state_dict(model.state_dict())
    if not to_dense:
        gk.accelerate(other)
    again = make(other)
    again.load_state_dict(copy.deepcopy(state))
    for one, theirs in ((model, optimizer), (other, again)):
        learn(one, theirs, range(3, 6))
    for ours, theirs in zip(*(masked_layers(one).values() for one in (model, other)), strict=True):
        key = "scores" if scores else "weight"
        values = [one.spread(getattr(one, key)) for one in (ours, theirs)]
        active = ours.spread(ours.active)
        assert (values[0] - values[1])[active].abs().max() < 2e-2


def test_a_live_optimizer_loads_the_momentum_of_another_form() -> None:
    model = network("resnet8")
    optimizer = MaskedSGD(model, lr=0.05, momentum=0.9)
    learn(model, optimizer, range(2))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with carrying(optimizer, masked_layers(model).values()):
        gk.accelerate(model)
    learn(model, optimizer, range(2))
    gk.decelerate(model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    for key, memory in optimizer.state_dict()["state"].items():
        assert torch.equal(memory["momentum_buffer"], saved[1]["state"][key]["momentum_buffer"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_train_apart(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = gk.accelerate(network("resnet8"))
    twin = copied(model)
    before = copy.deepcopy(model.state_dict())
    learn(twin, MaskedSGD(twin, lr=0.1, momentum=0.9), range(2))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    gk.decelerate(twin)
    assert all(layer.is_compressed for layer in masked_layers(model).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype(dtype: torch.dtype) -> None:
    model = gk.accelerate(network("resnet8")).eval()
    expected = model(images(0))
    model.to(dtype)
    made = model(images(0).to(dtype))
    assert made.dtype == dtype
    torch.testing.assert_close(made.float(), expected, rtol=0.1, atol=0.05)
    assert {layer.weight.dtype for layer in masked_layers(model).values()} == {dtype}
    gk.decelerate(model).float()
    torch.testing.assert_close(model(images(0)), expected, rtol=0.1, atol=0.05)


def test_what_went_to_meta_compressed_does_not_come_back() -> None:
    layer = gk.MaskedLinear(3, 4)
    layer.active[0] = False
    layer.compress()
    layer.to("meta")
    with pytest.raises(gk.GemkernError, match="was compressed when it went to the meta device"):
        layer.to_empty(device="cpu")


def test_an_average_with_buffers_moves_no_place() -> None:
    model = gk.accelerate(network("resnet8"))
    average = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    plain = network("resnet8")
    expected = AveragedModel(plain, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(3):
        for one, averaged in ((model, average), (plain, expected)):
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter.mul_(1 + step)
            averaged.update_parameters(one)
    gk.decelerate(average)
    state = average.module.state_dict()
    for key, value in expected.module.state_dict().items():
        torch.testing.assert_close(state[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("make", [lambda: gk.MaskedConv2d(4, 6, 3), lambda: gk.MaskedLinear(9, 4)])
def test_parameters_are_drawn_anew_as_those_of_the_whole(make: Callable[[], Any]) -> None:
    layer = make()
    layer.active.copy_(torch.rand(layer.active.shape) < 0.3)
    twin = copy.deepcopy(layer)
    layer.compress()
    weight = layer.weight
    for one in (layer, twin):
        torch.manual_seed(7)
        one.reset_parameters()
    assert layer.is_compressed
    assert layer.weight is weight
    assert_same_state(layer, twin)


@pytest.mark.parametrize("draw", [nn.init.zeros_, nn.init.normal_, nn.init.trunc_normal_])
def test_what_is_drawn_entry_by_entry_is_right(draw: Callable[[Tensor], Tensor]) -> None:
    layer = gk.MaskedConv2d(4, 6, 3)
    layer.active.copy_(torch.rand(layer.active.shape) < 0.3)
    before = layer.weight.detach().clone()
    layer.compress()
    torch.manual_seed(0)
    draw(layer.weight)
    drawn = layer.weight.detach().clone()
    layer.expand()
    assert torch.equal(layer.weight[layer.active], drawn)
    assert torch.equal(layer.weight[~layer.active], before[~layer.active])


@pytest.mark.parametrize("draw", [nn.init.kaiming_normal_, nn.init.xavier_uniform_])
def test_what_needs_the_shape_of_the_whole_is_refused(draw: Callable[[Tensor], Tensor]) -> None:
    layer = gk.MaskedConv2d(4, 6, 3)
    layer.compress()
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        draw(layer.weight)
