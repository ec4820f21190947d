"""A network three times, accelerated, dense and dense in float64, taken through the same.

What the accelerated one computes may err by `FACTOR` times what the dense one does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import gemkern as gk
from benchmarks.zoo.nets import Net
from gemkern.optim import masked_layers

SEED, BATCH, LEARNING_RATE = 0, 4, 1e-3
# An error of the accelerated network: over that of the dense one, and what is always allowed.
FACTOR, FLOOR = 10.0, 1e-5
# Of the largest tensor of a kind: so thin a network passes next to nothing to its first layers.
NOISE = 1e-3

Found = dict[str, Tensor]


class Trio:
    """The three of a masked network.

    Attributes:
        models: the accelerated one, `model` itself, and that in float64.
        error: the largest relative error of the first, and `rounding` that of the second.
    """

    def __init__(self, net: Net, model: nn.Module) -> None:
        self.net = net
        self.models = gk.accelerate(copy.deepcopy(model)), model, copy.deepcopy(model).double()
        self.error = self.rounding = 0.0

    def outputs(self, training: bool, seed: int = SEED) -> None:
        """Compare outputs, with what dropout draws, and the statistics after them."""
        when = "train()" if training else "eval()"
        found = [called(self.net, model.train(training), seed)[1] for model in self.models]
        self._compare(f"the output in {when}", found)
        self._compare(f"the state after {when}", [statistics_of(model) for model in self.models])

    def step(self, seed: int = SEED) -> None:
        """Compare all gradients of a training step, and take it; all go on from one state."""
        found = []
        for model in self.models:
            model.zero_grad()
            x, outputs = called(self.net, model.train(), seed)
            loss_of(outputs.values()).backward()
            found.append(gradients_of(model, x))
        self._compare("a step's gradients", found)
        self._compare("the state after a step", [statistics_of(model) for model in self.models])
        fast, dense, exact = self.models
        torch.optim.SGD(dense.parameters(), LEARNING_RATE).step()
        for model in (fast, exact):
            model.load_state_dict(dense.state_dict())

    def decelerate(self) -> None:
        """Undo the acceleration, and compare the parameters."""
        gk.decelerate(self.models[0])
        found = [dict(model.named_parameters()) for model in self.models]
        self._compare("the parameters after decelerate", found)

    @torch.no_grad()
    def _compare(self, what: str, found: Sequence[Mapping[str, Tensor]]) -> None:
        fast, dense, exact = found
        assert fast.keys() == dense.keys() == exact.keys(), f"{what} has other entries"
        noise = 1e-30 + NOISE * max((goal.norm().item() for goal in exact.values()), default=0.0)
        error, rounding, worst = 0.0, 0.0, ""
        for name, goal in exact.items():
            assert fast[name].shape == goal.shape, f"{what}: {name} is {tuple(fast[name].shape)}"
            bound = goal.norm().item() + noise
            rounding = max(rounding, (dense[name] - goal).norm().item() / bound)
            own = (fast[name] - goal).norm().item() / bound
            # NaN is the worst.
            if not own <= error:
                error, worst = own, name
        self.error, self.rounding = max(self.error, error), max(self.rounding, rounding)
        right = error <= FACTOR * rounding + FLOOR
        assert right, f"{what}: {worst} is off by {error:.1g}, the dense one's by {rounding:.1g}"


def sparse(net: Net, density: float) -> nn.Module:
    """Return the network under random masks, every channel with a weight, each layer as strong."""
    model = fresh(net)
    gk.convert(model)
    for layer in masked_layers(model).values():
        drawn = torch.rand(layer.active.shape).flatten(1)
        active = (drawn < density) | (drawn == drawn.amin(1, keepdim=True))
        layer.active.copy_(active.view_as(layer.active))
        layer.weight.data.mul_(layer.active).mul_(active.float().mean().rsqrt())
    return model


def fresh(net: Net) -> nn.Module:
    torch.manual_seed(SEED)
    return net.build().train()


def called(net: Net, model: nn.Module, seed: int = SEED) -> tuple[Tensor, Found]:
    """Return an input of the network, which learns if it can, and the numbers that come out."""
    x = net.inputs(BATCH, seed)
    if x.is_floating_point():
        x = x.to(next(model.parameters()).dtype).requires_grad_()
    torch.manual_seed(seed)
    leaves = list(leaves_of(model(x)))
    assert all(type(leaf) is Tensor for leaf in leaves), "an activation leaves the model"
    return x, {f"tensor {place}": leaf for place, leaf in enumerate(leaves)}


def leaves_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of numbers in what a network returns, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves_of(one)
    elif isinstance(value, Tensor) and value.is_floating_point():
        yield value


def loss_of(outputs: Iterable[Tensor]) -> Tensor:
    """Return a distance of the outputs that have a gradient to fixed numbers."""
    learning = [y for y in outputs if y.requires_grad]
    goals = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in learning]
    return torch.stack(
        [(y - goal).square().mean() for y, goal in zip(learning, goals, strict=True)]
    ).sum()


def gradients_of(model: nn.Module, x: Tensor) -> Found:
    """Return all gradients, those of compressed weights whole."""
    found = {} if x.grad is None else {"the input's": x.grad}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            layer: Any = model.get_submodule(name.rpartition(".")[0])
            whole = name.endswith(".weight") and hasattr(layer, "spread")
            found[name] = layer.spread(parameter.grad) if whole else parameter.grad
    return found


def statistics_of(model: nn.Module) -> Found:
    """Return the buffers that move as the model runs."""
    return {
        name: buffer.double()
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2].startswith(("running_", "num_batches"))
    }
