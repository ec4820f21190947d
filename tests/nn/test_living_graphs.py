"""Parameters change their shape while graphs of older steps, optimisers and wrappers hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerated_models import images, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.optim import MaskedSGD, carrying, masked_layers


def loss_of(model: nn.Module, seed: int) -> Tensor:
    return F.cross_entropy(model(images(seed)), torch.arange(20) % 5)


def freeze_more(model: nn.Module) -> None:
    """Freeze about half of what remains."""
    for layer in masked_layers(model).values():
        layer.active[::2] = False


def compress_anew(model: nn.Module) -> None:
    gk.accelerate(model)
    freeze_more(model)
    gk.accelerate(model)


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "accelerated": gk.accelerate,
    "accelerated anew": compress_anew,
    "and back": lambda model: gk.decelerate(gk.accelerate(model)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("retain", [False, True])
def test_a_loss_may_be_alive(form: str, retain: bool) -> None:
    model = network("resnet8")
    losses = [loss_of(model, 0)]
    losses[0].backward(retain_graph=retain)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        FORMS[form](one)
    for step in range(2):
        losses.append(loss_of(model, step))
        losses[-1].backward()
        loss_of(twin, step).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert ours.grad.shape == ours.shape
    # What was not reshaped kept the first step's gradient.
    for ours, theirs in zip(*(masked_layers(one).values() for one in (model, twin)), strict=True):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_an_older_graph_is_refused_by_pytorch_and_harms_nothing() -> None:
    model = network("resnet8")
    loss = loss_of(model, 0)
    loss.backward(retain_graph=True)
    gk.accelerate(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss_of(model, 1).backward()
    for layer in masked_layers(model).values():
        assert layer.weight.grad.shape == layer.weight.shape


def test_hooks_on_parameters_stay() -> None:
    model, seen = network("resnet8"), []
    weight = model.conv.weight
    weight.register_hook(lambda grad: seen.append(grad.shape))
    weight.register_post_accumulate_grad_hook(lambda one: seen.append(one.grad.shape))
    loss = loss_of(model, 0)
    loss.backward()
    gk.accelerate(model)
    loss = loss_of(model, 1)
    loss.backward()
    assert seen == [(16, 3, 3, 3)] * 2 + [weight.shape] * 2


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.001),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.001, amsgrad=True),
    "masked": lambda model: MaskedSGD(model, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_with_memories_follows(name: str) -> None:
    model = network("resnet8").double()
    twin = copy.deepcopy(model)
    runs = [(one, OPTIMIZERS[name](one)) for one in (model, twin)]

    def step(seed: int) -> None:
        for one, optimizer in runs:
            optimizer.zero_grad()
            loss = F.cross_entropy(one(images(seed).double()), torch.arange(20) % 5)
            loss.backward()
            optimizer.step()

    layers = masked_layers(model)
    kept = {key: layer.active.clone() for key, layer in layers.items()}
    for phase in range(3):
        step(2 * phase)
        step(2 * phase + 1)
        with carrying(runs[0][1], layers.values()):
            for layer in layers.values():
                if phase == 1:
                    layer.expand()
                else:
                    layer.compress()
    for key, layer in masked_layers(twin).items():
        ours, mask = layers[key].spread(layers[key].weight), kept[key]
        torch.testing.assert_close(ours[mask], layer.weight[mask], rtol=1e-6, atol=1e-9)


def test_what_is_remembered_stays_in_shape_where_the_form_cannot_change() -> None:
    model = network("resnet8")
    optimizer = OPTIMIZERS["sgd"](model)
    loss_of(model, 0).backward()
    optimizer.step()
    layers = masked_layers(model)

    def change() -> None:
        with carrying(optimizer, layers.values()):
            layers["conv"].compress()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change()
    loss_of(model, 1).backward()
    optimizer.step()


def test_a_wrapper_from_before_is_refused_and_goes_on(alone: None) -> None:
    model = network("resnet8")
    wrapper = DistributedDataParallel(model)
    loss_of(wrapper, 0).backward()
    with pytest.raises(gk.GemkernError, match="DistributedDataParallel has made buckets"):
        gk.accelerate(model)
    with pytest.raises(gk.GemkernError, match="DistributedDataParallel has made buckets"):
        gk.accelerate(wrapper)
    with pytest.raises(gk.GemkernError, match="DistributedDataParallel has made buckets"):
        model.conv.compress()
    assert not any(layer.is_compressed for layer in masked_layers(model).values())
    for seed in range(3):
        loss_of(wrapper, seed).backward()
    del wrapper
    gk.accelerate(model)


@pytest.mark.parametrize("undo", [gk.decelerate, gk.unconvert, lambda m: m.conv.expand()])
def test_a_wrapper_from_after_keeps_the_form(alone: None, undo: Callable[[Any], Any]) -> None:
    model = gk.accelerate(network("resnet8"))
    twin = copy.deepcopy(model)
    wrapper = DistributedDataParallel(model)
    for seed in range(2):
        loss_of(wrapper, seed).backward()
        loss_of(twin, seed).backward()
    with pytest.raises(gk.GemkernError, match="DistributedDataParallel has made buckets"):
        undo(model)
    freeze_more(model)
    freeze_more(twin)
    for seed in range(2):
        loss_of(wrapper, seed).backward()
        loss_of(twin, seed).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    del wrapper
    gk.decelerate(model)
