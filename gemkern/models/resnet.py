"""Residual networks for small images (He et al., 2016).

`CifarResNet` is the 6n+2 family: three stages of 16, 32 and 64 channels and shortcuts without
parameters (option A). `ResNet18` has four stages of 64 to 512 channels, a 3x3 stem and 1x1
convolutions as shortcuts.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.models.initial import Norm


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are missing."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.padding, self.padding))


def projected_shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [N, inputs, H, W] to [N, outputs, H/s, W/s]."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: Norm, shortcut: nn.Module
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = norm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = norm(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of basic blocks, global average pooling and a classifier without bias."""

    def __init__(
        self, stem: nn.Conv2d, stages: nn.Sequential, width: int, norm: Norm, classes: int
    ) -> None:
        super().__init__()
        self.conv = stem
        self.norm = norm(stem.out_channels)
        self.stages = stages
        self.classifier = nn.Linear(width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.norm(self.conv(x))))
        return self.classifier(x.mean((2, 3)))


def cifar_resnet(blocks: int, channels: int, classes: int, norm: Norm, width: int = 16) -> ResNet:
    """Return the network of 6 * `blocks` + 2 layers: 8, 20 or 32 for 1, 3 or 5 blocks a stage.

    Its stages have `width`, 2 * `width` and 4 * `width` channels.
    """
    stages, inputs = [], width
    for outputs in (width, 2 * width, 4 * width):
        stage = []
        for stride in [1 if outputs == width else 2] + [1] * (blocks - 1):
            shortcut = PaddedShortcut(inputs, outputs, stride) if stride > 1 else nn.Identity()
            stage.append(BasicBlock(inputs, outputs, stride, norm, shortcut))
            inputs = outputs
        stages.append(nn.Sequential(*stage))
    return ResNet(conv3x3(channels, width), nn.Sequential(*stages), inputs, norm, classes)


def resnet18(channels: int, classes: int, norm: Norm) -> ResNet:
    """Return ResNet-18 in its CIFAR form."""
    stages, inputs = [], 64
    for outputs in (64, 128, 256, 512):
        stage = []
        for stride in (1 if outputs == 64 else 2, 1):
            changes = stride > 1 or inputs != outputs
            shortcut = (
                projected_shortcut(inputs, outputs, stride, norm) if changes else nn.Identity()
            )
            stage.append(BasicBlock(inputs, outputs, stride, norm, shortcut))
            inputs = outputs
        stages.append(nn.Sequential(*stage))
    return ResNet(conv3x3(channels, 64), nn.Sequential(*stages), inputs, norm, classes)
