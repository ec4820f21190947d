"""Modules in modules, arguments of every kind and outputs of every kind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import conv, head, unit
from small_nets.registry import net


class Outputs(nn.Module):
    """A network of three parts, and how `give` returns what they made."""

    def __init__(self, give: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()
        self.give = give

    def forward(self, x: Tensor) -> Any:
        features = self.conv(self.stem(x))
        normed = self.norm(features)
        return self.give(features, normed, self.head(F.relu(normed)))


@dataclass
class Result:
    """What a network of a library returns."""

    logits: Tensor
    features: Tensor
    loss: Tensor | None = None


class Pair(NamedTuple):
    """Features and logits."""

    features: Tensor
    logits: Tensor


GIVEN: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "output_tuple": lambda features, normed, y: (y, features),
    "output_list": lambda features, normed, y: [y, normed],
    "output_dict": lambda features, normed, y: {"logits": y, "maps": [features, normed]},
    "output_ordered_dict": lambda features, normed, y: OrderedDict(a=features, b=y),
    "output_dataclass": lambda features, normed, y: Result(y, normed),
    "output_named_tuple": lambda features, normed, y: Pair(features, y),
    "output_nested": lambda features, normed, y: {"a": (y, [features, None]), "b": 3},
    "output_twice": lambda features, normed, y: (y, y),
    "output_norm": lambda features, normed, y: (normed, y.mean()),
    "output_conv": lambda features, normed, y: (features, y.relu_()),
    "output_view": lambda features, normed, y: (normed[:, :3], features.flatten(1), y),
    "output_detached": lambda features, normed, y: (y, normed.detach(), features.mean().item()),
    "output_number": lambda features, normed, y: y.square().mean(),
}
for name, give in GIVEN.items():
    net(name)(partial(Outputs, give))


@net("loss_inside")
class LossInside(nn.Module):
    """A network that is its own loss while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(unit(3), conv(), nn.BatchNorm2d(8)), head()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(self.features(x).relu())
        targets = torch.arange(len(x)) % 5
        if not self.training:
            return {"scores": y.softmax(-1)}
        return {
            "loss": self.criterion(y, targets),
            "entropy": F.mse_loss(y, y.detach().flip(0)),
        }


@net("contrastive")
class Contrastive(nn.Module):
    """A loss of two views of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.project = nn.Sequential(unit(3), unit(), conv()), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        views = torch.cat([x, x.flip(-1) + 0.1])
        z = F.normalize(self.project(self.features(views).mean((2, 3))), dim=1)
        alike = z @ z.t() / 0.5
        alike.fill_diagonal_(-1e9)
        return F.cross_entropy(alike, torch.arange(2 * len(x)).roll(len(x)))


@net("module_lists")
class ModuleLists(nn.Module):
    """Loops over a list and a dictionary of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3), head()
        self.layers = nn.ModuleList([conv() for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(2)])
        self.branches = nn.ModuleDict({"a": unit(), "b": nn.Identity(), "c": conv(size=1)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x)) + x if i % 2 else norm(layer(x)).relu()
        return self.head(sum(branch(x) for branch in self.branches.values()))


net("sequential_nested")(
    lambda: nn.Sequential(
        nn.Sequential(nn.Sequential(conv(3), nn.BatchNorm2d(8)), nn.Sequential(nn.ReLU(True))),
        nn.Sequential(nn.Sequential(), conv()), nn.Sequential(nn.BatchNorm2d(8)), head(),
    )
)  # fmt: skip
net("sequential_named")(
    lambda: nn.Sequential(
        OrderedDict(conv1=conv(3), bn1=nn.BatchNorm2d(8), act=nn.ReLU(), body=unit(), head=head())
    )
)
net("sequential_of_one_activation")(
    lambda: (lambda act: nn.Sequential(conv(3), act, conv(), nn.BatchNorm2d(8), act, head()))(
        nn.ReLU(inplace=True)
    )
)


class Masking(nn.Module):
    """A convolution with a weight of its pixels that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(8)

    def forward(
        self, x: Tensor, w: Tensor | None = None, *more: Tensor, flip: bool = False, **named: Any
    ) -> Tensor:
        x = self.norm(self.conv(x if w is None else x * w))
        x = sum(more, x).relu()
        return named.get("scale", 1.0) * (x.flip(-1) if flip else x)


class Called(nn.Module):
    """Three blocks, called as `call` says."""

    def __init__(self, call: Callable[[Called, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.call = unit(3), head(), call
        self.a, self.b, self.c = Masking(), Masking(), Masking()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        assert not kwargs
        (x,) = args
        return self.head(self.call(self, self.stem(x)))


def _by_a_loop(m: Called, x: Tensor) -> Tensor:
    options = {"flip": True, "scale": 0.5}
    for index, block in enumerate(m.children()):
        if isinstance(block, Masking):
            x = block(x, **(options if index % 2 else {}))
    return x


def _by_recursion(m: Called, x: Tensor, depth: int = 0) -> Tensor:
    blocks = (m.a, m.b, m.c)
    return x if depth == 3 else _by_recursion(m, blocks[depth](x), depth + 1)


CALLS: dict[str, Callable[[Called, Tensor], Tensor]] = {
    "arguments": lambda m, x: m.c(m.b(m.a(x), x.sigmoid(), x, x), None),
    "arguments_named": lambda m, x: m.c(
        x=m.b(m.a(x, flip=True), w=x.mean(1, True)), scale=x[:, :1]
    ),
    "arguments_starred": lambda m, x: m.a(*[x, x, m.b(x)], **{"scale": 2.0, "flip": True}) + m.c(x),
    "arguments_by_loop": _by_a_loop,
    "arguments_by_recursion": _by_recursion,
    "arguments_by_getattr": lambda m, x: m.a(getattr(m, "bc"[0])(m._modules["c"](x))),
}
for name, call in CALLS.items():
    net(name)(partial(Called, call))


class Base(nn.Module):
    """A network whose subclass says what comes between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3), head()

    def features(self, x: Tensor) -> Tensor:
        """Return the features of images."""
        return self.stem(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@net("inherited")
class Inherited(Base):
    """Features of its own and a property that names the device of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), conv()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return next(self.parameters()).device

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x.to(self.device))
        return F.relu(self.norm(self.conv(x)) * self.scale.to(x))


@net("mixture_of_experts")
class Experts(nn.Module):
    """Images sent to the expert that a gate prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = unit(3), nn.Linear(8, 2), head()
        self.experts = nn.ModuleList([unit(), unit()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gates = self.gate(x.mean((2, 3))).softmax(-1)
        chosen = (gates[:, 0] > gates[:, 0].median()).long()
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = torch.where(chosen == index)[0]
            if len(rows) > 1:
                y[rows] = gates[rows, index].view(-1, 1, 1, 1) * expert(x[rows])
        return self.head(y + x)


@net("wrapped")
class Wrapped(nn.Module):
    """A network inside, whose hook collects a map that the wrapper reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3), conv(), nn.BatchNorm2d(8), nn.ReLU(), unit(), head())
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        handle = self.body[2].register_forward_hook(lambda *given: maps.append(given[-1]))
        y = self.body(x)
        handle.remove()
        return y + self.linear(maps[0].mean((2, 3)))


@net("changed_by_hooks")
class ChangedByHooks(nn.Module):
    """Hooks that change what a norm gives and what a convolution takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()

    def forward(self, x: Tensor) -> Tensor:
        handles = [
            self.norm.register_forward_hook(lambda _, __, y: 0.5 * y),
            self.conv.register_forward_pre_hook(lambda _, given: (given[0] + 1,)),
        ]
        y = self.head(F.relu(self.norm(self.conv(self.stem(x)))))
        for handle in handles:
            handle.remove()
        return y
