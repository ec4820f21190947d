"""Sparse models to accelerate, and what a step of a model leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import gemkern as gk
from gemkern.models import build
from gemkern.optim import masked_layers


def sparse(model: nn.Module, density: float = 0.05) -> nn.Module:
    """Mask `model` at random, the masked weights at 0."""
    gk.convert(model)
    generator = torch.Generator().manual_seed(0)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=generator) < density)
        if getattr(layer, "groups", 1) > 1:
            # A depthwise channel with no weight has no variance, and no stable gradient.
            layer.active.fill_(True)
        layer.weight.data.mul_(layer.active)
    return model


def masked_in_float64(model: nn.Module, density: float) -> nn.Module:
    """Mask `model` at random so that every channel keeps a weight, and return it in float64."""
    gk.convert(model)
    for layer in masked_layers(model).values():
        drawn = torch.rand(layer.active.shape).flatten(1)
        active = (drawn < density) | (drawn == drawn.amin(1, keepdim=True))
        layer.active.copy_(active.view_as(layer.active))
        layer.weight.data.mul_(2 * layer.active)
    return model.double()


def network(name: str, density: float = 0.05) -> nn.Module:
    size = 16 if name in ("vgg16", "mobilenet_v2") else 8
    model = build(name, seed=0, affine=True, init="kaiming_normal", image_size=size)
    return sparse(model, density)


def images(seed: int, size: int = 8) -> Tensor:
    return torch.randn(20, 3, size, size, generator=torch.Generator().manual_seed(seed))


def results_of(model: Any, x: Tensor) -> list[Tensor]:
    """Return output, gradients of the whole weights and statistics after a step's two passes."""
    y = model(x)
    assert y.std(0).max() > 0, "masks so thin that nothing comes through compare nothing"
    y.square().mean().backward()
    layers = masked_layers(model).values()
    gradients = [layer.spread(layer.weight.grad) for layer in layers]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    statistics = [norm.running_var for norm in norms if norm.running_var is not None]
    return [y.detach(), *gradients, *statistics]
