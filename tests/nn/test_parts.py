"""Parts of a model are accelerated and undone in any order, inside of wrappers: nothing is left."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerated_models import images, network, sparse
from torch import nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.optim import MaskedSGD, masked_layers, unwrapped


def parts() -> nn.Sequential:
    """Return a model of two parts and a head."""
    torch.manual_seed(0)

    def block(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return sparse(nn.Sequential(block(3), nn.Sequential(block(8), block(8)), head), 0.2)


def doors(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if module._forward_hooks]


def compressed(model: nn.Module) -> list[str]:
    layers: dict[str, Any] = masked_layers(model)
    return [name for name, layer in layers.items() if layer.is_compressed]


def assert_it_learns(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    loss = F.cross_entropy(model(images(0)), torch.arange(20) % 5)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert not torch.equal(parameter, before[name]), name


def undo_each_part(model: nn.Sequential) -> None:
    for part in model:
        gk.decelerate(part)


ORDERS: dict[str, Callable[[nn.Sequential], Any]] = {
    "part, whole": lambda model: (gk.accelerate(model[1]), gk.accelerate(model)),
    "whole, part": lambda model: (gk.accelerate(model), gk.accelerate(model[0])),
    "each part": lambda model: [gk.accelerate(part) for part in model],
    "part in part": lambda model: (gk.accelerate(model[1][0]), gk.accelerate(model[1])),
    "a layer": lambda model: (gk.accelerate(model[0][0]), gk.accelerate(model[2][2])),
    "on and off": lambda model: (
        gk.accelerate(model),
        gk.decelerate(model[1]),
        gk.accelerate(model),
    ),
}
UNDOING: dict[str, Callable[[nn.Sequential], Any]] = {
    "the whole": gk.decelerate,
    "each part": undo_each_part,
    "by a ticket": lambda model: gk.Ticket.from_model(model, method="test").apply(model),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("undoing", UNDOING)
def test_nothing_is_left_half_done(order: str, undoing: str) -> None:
    model = parts()
    plain = copy.deepcopy(model).eval()
    ORDERS[order](model)
    assert compressed(model)
    torch.testing.assert_close(model.eval()(images(0)), plain(images(0)), rtol=1e-4, atol=1e-5)
    assert_it_learns(copy.deepcopy(model).train())
    UNDOING[undoing](model)
    assert not compressed(model)
    assert torch.equal(model(images(0)), plain(images(0)))
    assert not doors(model)
    assert_it_learns(model.train())


@pytest.mark.parametrize("order", ORDERS)
def test_an_unconverted_model_is_plain(order: str) -> None:
    model = parts().eval()
    x = images(0)
    expected = model(x)
    ORDERS[order](model)
    for part in (model[1], model):
        gk.unconvert(part)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert not doors(model)
    assert not any(type(one).__module__.startswith("gemkern") for one in model.modules())
    assert b"gemkern" not in pickle.dumps(model)
    assert_it_learns(model.train())


def test_a_part_that_is_undone_leaves_the_rest_accelerated() -> None:
    model = parts()
    gk.accelerate(model[1])
    gk.accelerate(model)
    gk.decelerate(model[1])
    assert compressed(model) == ["0.0", "2.2"]
    x = images(0)
    plain = gk.decelerate(copy.deepcopy(model))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)
    assert type(model(x)) is type(model[0](x)[0].sum()) is torch.Tensor
    assert_it_learns(model)


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "sequential": nn.Sequential,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("inside", [True, False])
def test_wrappers(wrapping: str, inside: bool) -> None:
    model = parts()
    plain = copy.deepcopy(model).eval()
    if inside:
        gk.accelerate(model)
    wrapper = WRAPPINGS[wrapping](model)
    if not inside:
        gk.accelerate(wrapper)
    own = wrapper.module if wrapping == "averaged" else model
    assert compressed(own)
    x = images(0)
    torch.testing.assert_close(wrapper.eval()(x), plain(x), rtol=1e-4, atol=1e-5)
    gk.decelerate(wrapper if inside else own)
    assert not compressed(own)
    torch.testing.assert_close(wrapper(x), plain(x), rtol=1e-4, atol=1e-5)
    assert not doors(unwrapped(wrapper))
    assert not doors(wrapper)


def test_an_optimizer_made_meanwhile_moves_all_layers() -> None:
    model = gk.accelerate(network("resnet8"))
    optimizer = MaskedSGD(model, lr=0.1, momentum=0.9)

    def step() -> None:
        F.cross_entropy(model(images(0)), torch.arange(20) % 5).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with gk.optim.carrying(optimizer, masked_layers(model.stages).values()):
        gk.decelerate(model.stages)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    step()
    assert not [name for name, one in model.named_parameters() if torch.equal(one, before[name])]
