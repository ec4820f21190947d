"""Random forward passes, line by line as somebody might write them, beside their dense selves."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gemkern as gk
from gemkern.optim import masked_layers

LAYERS, LINES, PROGRAMS = 4, 14, 300


class Doubled(torch.autograd.Function):
    """Somebody's function, which knows nothing of activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def _without_gradient(y: Tensor) -> Tensor:
    with torch.no_grad():
        return y.relu()


def _changed_without_gradient(y: Tensor) -> Tensor:
    with torch.no_grad():
        y.mul_(0.5)
    return y


def _channel_changed(y: Tensor) -> Tensor:
    y[:, 1].mul_(0.5)
    return y


def _slice_changed(y: Tensor) -> Tensor:
    part = y[:, :, ::2, ::2]
    part += 0.1
    return y


def _shortened(y: Tensor) -> Tensor:
    short = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return F.interpolate(short[:, 2:-2], scale_factor=2)


def _hooked(y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda grad: 0.5 * grad)
    return y


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": lambda y: F.relu(y, inplace=True),
    "tensor_relu": lambda y: y.relu(),
    "silu_": lambda y: F.silu(y, inplace=True),
    "relu6_": lambda y: F.relu6(y, inplace=True),
    "mul_": lambda y: y.mul_(0.7),
    "clamp_": lambda y: y.clamp_(min=-1.0),
    "tanh": torch.tanh,
    "dropout": lambda y: F.dropout(y, 0.3),
    "dropout_": lambda y: F.dropout(y, 0.3, inplace=True),
    "without_gradient": _without_gradient,
    "changed_without_gradient": _changed_without_gradient,
    "channel_changed": _channel_changed,
    "slice_changed": _slice_changed,
    "shortened": _shortened,
    "hooked": _hooked,
    "doubled": Doubled.apply,
    "detached": lambda y: y.detach() * 0.5,
    "clone": lambda y: y.clone(),
    "gate": lambda y: y * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "pool": lambda y: F.max_pool2d(y, 3, 1, 1),
    "pool_apart": lambda y: F.interpolate(F.max_pool2d(y, 2), scale_factor=2),
    "average": lambda y: F.avg_pool2d(y, 3, 1, 1),
    "shuffled": lambda y: y.view(y.shape[0], 2, -1, *y.shape[2:]).transpose(1, 2).flatten(1, 2),
    "halves": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "same": lambda y: y,
    "data": lambda y: y + y.data,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda y, x: y + x,
    "add_": lambda y, x: y.add_(x),
    "relu_of_sum": lambda y, x: F.relu(y + x),
    "multiply": lambda y, x: y * torch.tanh(x),
    "scaled": lambda y, x: torch.add(y, x, alpha=0.5),
    "copy_": lambda y, x: y.copy_(0.5 * x),
    "first": lambda y, x: y,
}


class Program(nn.Module):
    """Lines of (target, function, sources) over a few names, all of one shape."""

    def __init__(self, lines: list[tuple[int, str, int, int]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lines = lines
        self.convs = nn.ModuleList(
            nn.Conv2d(4, 4, 3, padding=1, bias=layer % 2 == 0) for layer in range(LAYERS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        names = [self.convs[0](x), x, self.norms[0](self.convs[1](x))]
        for target, function, first, second in self.lines:
            names[target] = self._line(function, names[first], names[second], first)
        return sum(name.sum((2, 3)) for name in names)

    def _line(self, function: str, y: Tensor, x: Tensor, layer: int) -> Tensor:
        block = nn.Sequential(self.convs[layer], self.norms[layer])
        if function == "conv":
            return self.convs[layer](y)
        if function == "norm":
            return self.norms[layer](y)
        if function == "block":
            return F.relu(block(y))
        if function in ("checkpoint", "checkpoint_reentrant"):
            return checkpoint(block, y, use_reentrant=function != "checkpoint")
        if function in BINARY:
            return BINARY[function](y, x)
        return UNARY[function](y)


def random_lines(seed: int) -> list[tuple[int, str, int, int]]:
    draw = random.Random(seed)
    functions = [*UNARY, *BINARY, *3 * ["conv", "norm", "block"], "checkpoint"]
    functions += ["checkpoint_reentrant"]
    return [
        (draw.randrange(3), draw.choice(functions), draw.randrange(3), draw.randrange(3))
        for _ in range(LINES)
    ]


def results_of(model: nn.Module, steps: int = 3) -> list[Any]:
    """Return outputs, gradients and statistics of a few steps, the last in eval()."""
    results: list[Any] = []
    for step in range(steps):
        model.train(step < steps - 1)
        torch.manual_seed(step)
        x = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
        model.zero_grad()
        y = model(x.clone())
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        results += [y.detach(), x.grad]
        for layer in masked_layers(model).values():
            grad = layer.weight.grad
            results.append(None if grad is None else layer.spread(grad).clone())
        for norm in model.norms:
            results += [norm.running_mean.clone(), norm.running_var.clone()]
    return results


@pytest.mark.parametrize("part", range(10))
def test_random_programs_compute_what_they_say(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gemkern.nn.accelerate"], "_why_unserved", lambda *_: "")
    compared = 0
    for seed in range(part * PROGRAMS // 10, (part + 1) * PROGRAMS // 10):
        model = Program(random_lines(seed)).double()
        gk.convert(model)
        for layer in masked_layers(model).values():
            layer.active.copy_(torch.rand(layer.active.shape) < 0.5)
        fast = gk.accelerate(copy.deepcopy(model))
        try:
            expected = results_of(model)
        except RuntimeError:
            # Changes in place that PyTorch refuses.
            continue
        compared += 1
        ours = results_of(fast)
        torch.testing.assert_close(
            ours, expected, rtol=1e-7, atol=1e-9, msg=lambda text, seed=seed: f"{seed}: {text}"
        )
    assert compared > PROGRAMS // 40, "hardly a program that PyTorch runs"
