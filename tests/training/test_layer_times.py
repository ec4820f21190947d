"""Layers are timed alone, dense and sparse, and nothing of that is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gemkern as gk
from gemkern.optim import masked_layers
from gemkern.training import layer_times
from gemkern.training.layer_times import Inputs, slower_sparse


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular", groups=2)
        self.head = nn.Linear(8, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).mean((2, 3)).unsqueeze(1))


@pytest.fixture(params=[False, True])
def model(request: pytest.FixtureRequest) -> nn.Module:
    model = Net()
    gk.convert(model, scores=request.param)
    for layer in masked_layers(model).values():
        layer.active.view(-1)[::2] = False
    return model


def inputs_of(model: nn.Module) -> Inputs:
    inputs = Inputs()
    inputs.watch(masked_layers(model))
    model(torch.randn(4, 3, 6, 6))
    inputs.leave()
    return inputs


def test_inputs_are_seen_once(model: nn.Module) -> None:
    inputs = inputs_of(model)
    scored = model.first.scores is not None
    assert inputs.seen == {
        "first": ((4, 3, 6, 6), False),
        "second": ((4, 8, 6, 6), True),
        "head": ((4, 1, 8), True),
    }
    assert scored == (model.second.scores is not None)
    model(torch.randn(2, 3, 6, 6))
    assert inputs.seen["first"][0][0] == 4


@pytest.mark.parametrize("compressed", [False, True])
def test_timing_touches_neither_layers_nor_random_numbers(
    model: nn.Module, compressed: bool
) -> None:
    layers, inputs = masked_layers(model), inputs_of(model)
    called: list[nn.Module] = []
    model.second.register_forward_hook(lambda module, *_: called.append(module))
    if compressed:
        model.second.compress()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = slower_sparse(layers, inputs)
    assert found <= {"first", "second", "head"}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [layer.is_compressed for layer in layers.values()] == [False, compressed, False, False]
    assert called == []


def test_the_slower_ones_are_found(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, inputs = masked_layers(model), inputs_of(model)

    def seconds(layer: nn.Module, *_: object, compressed: bool) -> float:
        return 1.0 + (compressed if layer is model.second else -compressed)

    monkeypatch.setattr(layer_times, "_seconds", seconds)
    assert slower_sparse(layers, inputs) == {"second"}
