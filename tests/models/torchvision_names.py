"""Residual networks as torchvision names and builds them, written down here once more."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A basic block of two 3x3 convolutions, or a bottleneck of a 1x1, a 3x3 and a 1x1."""

    def __init__(self, inputs: int, width: int, stride: int, deep: bool, affine: bool) -> None:
        super().__init__()
        outputs = 4 * width if deep else width
        plan = (
            [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
            if deep
            else [(inputs, width, 3, stride), (width, width, 3, 1)]
        )
        self.count = len(plan)
        for place, (before, after, side, step) in enumerate(plan, start=1):
            layer = nn.Conv2d(before, after, side, step, padding=side // 2, bias=False)
            self.add_module(f"conv{place}", layer)
            self.add_module(f"bn{place}", nn.BatchNorm2d(after, affine=affine))
        if stride == 2 or inputs != outputs:
            self.downsample: nn.Module | None = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs, affine=affine),
            )
        else:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for place in range(1, self.count + 1):
            y = self.get_submodule(f"bn{place}")(self.get_submodule(f"conv{place}")(y))
            if place < self.count:
                y = y.clamp(min=0)
        return (y + (x if self.downsample is None else self.downsample(x))).clamp(min=0)


class TorchvisionResNet(nn.Module):
    """ResNet-18 or, `deep`, ResNet-50: conv1, bn1, layer1 to layer4 and fc."""

    def __init__(self, deep: bool, classes: int, affine: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, affine=affine)
        inputs = 64
        for stage, count in enumerate((3, 4, 6, 3) if deep else (2, 2, 2, 2)):
            width = 64 * 2**stage
            blocks = []
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(Block(inputs, width, stride, deep, affine))
                inputs = 4 * width if deep else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).clamp(min=0), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def layers_of(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Yield convolutions and linear layers in the order in which modules were registered."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module


def vary(model: nn.Module, seed: int = 0) -> None:
    """Let the norms of `model` do something, so that none can be taken for another."""
    stream = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=stream)
            module.running_var.uniform_(0.5, 2.0, generator=stream)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=stream)
                nn.init.normal_(module.bias, generator=stream)
