"""RigL and SET on a network of 74 thousand weights, a few steps an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.models import build
from gemkern.tickets import SET, RigL

KINDS: dict[str, Any] = {"rigl": RigL, "set": SET}
DENSITIES = [0.1, 0.0144]
STEPS = 5


def plain() -> nn.Module:
    return build("resnet8", seed=0, channels=1, image_size=8, affine=True, init="kaiming_normal")


def converted() -> nn.Module:
    model = plain()
    gk.convert(model)
    return model


def search_of(kind: str, model: nn.Module, density: float = 0.1, **options: Any) -> Any:
    epochs = options.pop("epochs", 4)
    chosen = {"every": 3, "lr": 0.05, "seed": 1, **options}
    return KINDS[kind](model, density, epochs, **chosen)


def batch(taken: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(taken)
    labels = torch.arange(6) % 3
    return torch.randn(6, 1, 8, 8, generator=stream) + labels.view(-1, 1, 1, 1), labels


def run_step(model: nn.Module, search: Any, taken: int) -> None:
    """Take a step, after so many; after the last of an epoch, end it."""
    images, labels = batch(taken)
    F.cross_entropy(model(images), labels).backward()
    search.step()
    if (taken + 1) % STEPS == 0:
        search.end_epoch()


def run(model: nn.Module, search: Any, first: int = 0, last: int | None = None) -> None:
    for taken in range(first, STEPS * search.epochs if last is None else last):
        run_step(model, search, taken)


def momenta(search: Any) -> dict[str, Tensor]:
    state = search.optimizer.state
    return {
        name: state[layer.weight]["momentum_buffer"].clone()
        for name, layer in search.layers.items()
    }


def weights_of(search: Any) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in search.layers.items()}
