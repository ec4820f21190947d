"""Residual networks (He et al., 2016), for small images and for those of ImageNet's size.

`cifar_resnet` is the 6n+2 family: three stages of 16, 32 and 64 channels and shortcuts without
parameters (option A). `resnet18` has four stages of 64 to 512 channels, a 3x3 stem and 1x1
convolutions as shortcuts; `tiny_resnet18` and `resnet50` begin with ImageNet's stem.

The code of "Rare Gems" (NeurIPS 2022) leaves the shortcuts of the last two out of what it freezes
and counts (11,097,280 weights with 200 classes and 22,734,016 with 1,000) and lets them be dense
again to finetune. Here they are masked, frozen and counted as every layer is (11,269,312 and
25,502,912).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.models.initial import Norm

# Channels of a bottleneck block's output for each channel between.
EXPANSION = 4


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


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
    return nn.Sequential(conv1x1(inputs, outputs, stride), norm(outputs))


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


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 has the stride.

    [N, inputs, H, W] to [N, outputs, H/s, W/s], with a quarter of `outputs` between.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: Norm, shortcut: nn.Module
    ) -> None:
        super().__init__()
        width = outputs // EXPANSION
        self.conv1 = conv1x1(inputs, width)
        self.norm1 = norm(width)
        self.conv2 = conv3x3(width, width, stride)
        self.norm2 = norm(width)
        self.conv3 = conv1x1(width, outputs)
        self.norm3 = norm(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of blocks, global average pooling and a classifier without bias.

    Args:
        pool: what follows the stem's norm and ReLU.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        stages: nn.Sequential,
        width: int,
        norm: Norm,
        classes: int,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = stem
        self.norm = norm(stem.out_channels)
        self.pool = nn.Identity() if pool is None else pool
        self.stages = stages
        self.classifier = nn.Linear(width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.pool(F.relu(self.norm(self.conv(x)))))
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
    stages = _four_stages(BasicBlock, (2, 2, 2, 2), 64, norm)
    return ResNet(conv3x3(channels, 64), stages, 512, norm, classes)


def tiny_resnet18(channels: int, classes: int, norm: Norm) -> ResNet:
    """Return ResNet-18 with ImageNet's stem, as Rare Gems uses it on TinyImageNet."""
    stages = _four_stages(BasicBlock, (2, 2, 2, 2), 64, norm)
    return _with_imagenet_stem(channels, stages, 512, norm, classes)


def resnet50(channels: int, classes: int, norm: Norm) -> ResNet:
    """Return ResNet-50, with ImageNet's stem and the stride on the 3x3 convolutions."""
    stages = _four_stages(Bottleneck, (3, 4, 6, 3), 64 * EXPANSION, norm)
    return _with_imagenet_stem(channels, stages, 512 * EXPANSION, norm, classes)


def _four_stages(
    block: type[BasicBlock] | type[Bottleneck], counts: Sequence[int], outputs: int, norm: Norm
) -> nn.Sequential:
    """Return stages of `counts` blocks; all but the first halve images and double `outputs`."""
    stages: list[nn.Module] = []
    inputs = 64
    for count in counts:
        stage = []
        for stride in [2 if stages else 1] + [1] * (count - 1):
            changes = stride > 1 or inputs != outputs
            shortcut = (
                projected_shortcut(inputs, outputs, stride, norm) if changes else nn.Identity()
            )
            stage.append(block(inputs, outputs, stride, norm, shortcut))
            inputs = outputs
        stages.append(nn.Sequential(*stage))
        outputs *= 2
    return nn.Sequential(*stages)


def _with_imagenet_stem(
    channels: int, stages: nn.Sequential, width: int, norm: Norm, classes: int
) -> ResNet:
    stem = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return ResNet(stem, stages, width, norm, classes, pool)
