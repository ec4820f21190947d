"""Accelerated networks of every structure train as they did: values, gradients, buffers, hooks."""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from accelerated_models import masked_in_float64
from small_nets import NETS, inputs_of
from torch import Tensor, nn

import gemkern as gk
from gemkern.optim import masked_layers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def float64_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reference serve layers in float64: nothing is left to rounding."""
    monkeypatch.setattr(sys.modules["gemkern.nn.accelerate"], "_why_unserved", lambda *_: "")


def sparse(name: str, density: float = 0.2) -> nn.Module:
    """Return a network in float64, under random masks that leave every channel a weight."""
    model = NETS[name]()
    return masked_in_float64(model, density)


def leaves_of(value: Any) -> Iterator[Any]:
    """Yield what a structure of outputs holds, in order."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves_of(one)
    else:
        yield value


def copies_of(value: Any) -> list[Any]:
    """Return what a structure of outputs holds, as it is now."""
    return [
        leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves_of(value)
    ]


def loss_of(value: Any) -> Tensor:
    """Return a distance of all outputs that have a gradient to fixed numbers."""
    learning = [
        leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    assert learning, "nothing to learn from"
    goals = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in learning]
    return sum((y - goal).square().mean() for y, goal in zip(learning, goals, strict=True))


class Run:
    """A network that trains, and what its passes give."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model
        self.layers = masked_layers(model)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def passes(self, seed: int) -> list[Any]:
        """Return the outputs, and the input and its gradient after the passes."""
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        x = inputs_of(self.name, seed).double().requires_grad_(seed % 2 == 0)
        given = x.clone()
        y = self.model(given)
        assert all(type(leaf) is Tensor for leaf in leaves_of(y) if isinstance(leaf, Tensor))
        outputs = copies_of(y)
        if torch.is_grad_enabled():
            loss_of(y).backward()
        return [*outputs, given.detach(), x.grad]

    def step(self, seed: int) -> list[Any]:
        """Return what `passes` does, and change the parameters."""
        self.optimizer.zero_grad()
        results = self.passes(seed)
        self.optimizer.step()
        if hasattr(self.model, "advance"):
            self.model.advance(seed)
        return results

    def state(self) -> dict[str, Tensor]:
        """Return parameters, compressed ones whole, their gradients and buffers."""
        state = dict(self.model.state_dict())
        for name, layer in self.layers.items():
            state[f"{name}.weight"] = layer.spread(layer.weight.detach())
            if layer.weight.grad is not None:
                state[f"{name}.weight.grad"] = layer.spread(layer.weight.grad)
        return {key: one.clone() for key, one in state.items()}


def assert_same(ours: Any, exact: Any, when: str) -> None:
    # Where every layer of a dense network is rounded anew, a hundredth of this suffices.
    torch.testing.assert_close(
        ours, exact, rtol=1e-8, atol=1e-9, msg=lambda text: f"{when}: {text}"
    )


@pytest.mark.parametrize("name", NETS)
def test_it_trains_as_it_did(name: str) -> None:
    model = sparse(name)
    fast = Run(name, gk.accelerate(copy.deepcopy(model)))
    plain = Run(name, model)
    begun, ours = plain.state(), fast.state()
    assert_same(ours, begun, "before training")
    for step in range(20):
        assert_same(fast.step(step), plain.step(step), f"step {step}")
    trained = plain.state()
    assert_same(fast.state(), trained, "after training")
    for name, layer in plain.layers.items():
        moved = (trained[f"{name}.weight"] - begun[f"{name}.weight"]).abs().max()
        assert moved > 1e-6 or not layer.weight.requires_grad, f"{name} does not learn"
    for mode, when in ((False, "in eval()"), (True, "in train() again")):
        for run in (fast, plain):
            run.model.train(mode)
        assert_same(fast.passes(20), plain.passes(20), when)
    with torch.no_grad():
        assert_same(fast.passes(21), plain.passes(21), "under no_grad()")
    assert_same(fast.state(), plain.state(), "in the end")


class Watch:
    """What hooks on some modules of a network see, module by module."""

    def __init__(self, model: nn.Module, names: list[str], backward: list[str]) -> None:
        self.forward: dict[str, list[Any]] = {}
        self.backward: dict[str, list[Any]] = {}
        for name in names:
            module = model.get_submodule(name)
            module.register_forward_hook(functools.partial(self._note, self.forward, name))
            if name in backward:
                module.register_full_backward_hook(
                    functools.partial(self._note, self.backward, name)
                )

    def _note(self, kept: dict[str, list[Any]], name: str, _: nn.Module, *seen: Any) -> None:
        kept.setdefault(name, []).append(copies_of(seen))


def differentiable(model: nn.Module, x: Tensor, names: list[str]) -> list[str]:
    """Return the modules that nothing in place keeps from having a backward hook."""
    model, found = copy.deepcopy(model), []
    for name in names:
        handle = model.get_submodule(name).register_full_backward_hook(lambda *_: None)
        with suppress(RuntimeError):
            loss_of(model(x.clone())).backward()
            found.append(name)
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETS)
def test_hooks_see_what_they_saw(name: str) -> None:
    """Those from before acceleration and those from after it, each on a third of the modules."""
    model = sparse(name)
    parts = [part for part, _ in model.named_modules()]
    thirds = parts[1::3], parts[2::3]
    x = inputs_of(name, 0).double().requires_grad_()
    served = differentiable(model, x, [*thirds[0], *thirds[1]])
    twins = copy.deepcopy(model), model
    early = [Watch(twin, thirds[0], served) for twin in twins]
    runs = [Run(name, gk.accelerate(twins[0])), Run(name, model)]
    for step in range(4):
        if step == 2:
            late = [Watch(twin, thirds[1], served) for twin in twins]
        assert_same(*[run.step(step) for run in runs], f"step {step}")
    for when, watches in (("early", early), ("late", late)):
        ours, exact = watches
        assert list(ours.forward) == list(exact.forward)
        assert_same(ours.forward, exact.forward, f"{when} forward hooks")
        assert_same(ours.backward, exact.backward, f"{when} backward hooks")
