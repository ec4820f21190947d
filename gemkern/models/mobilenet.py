"""MobileNet-V2 for small images (Sandler et al., 2018), as Rare Gems uses it.

The stem and the second group of blocks keep their stride at 1, and a block whose width changes at
stride 1 has a 1x1 convolution as shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.models.initial import Norm

# Expansion, output channels, blocks, stride of the first block.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
HEAD = 1280


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; add the input at stride 1."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, norm: Norm) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv1x1(inputs, hidden)
        self.norm1 = norm(hidden)
        self.depthwise = nn.Conv2d(
            hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False
        )
        self.norm2 = norm(hidden)
        self.project = conv1x1(hidden, outputs)
        self.norm3 = norm(outputs)
        self.adds = stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if self.adds and inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.expand(x)))
        y = F.relu(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(y))
        return y + self.shortcut(x) if self.adds else y


class MobileNetV2(nn.Module):
    """A stem of 32 channels, seven groups of inverted residuals, a head of 1280 channels."""

    def __init__(self, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.norm1 = norm(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, first in GROUPS:
            for stride in [first] + [1] * (count - 1):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride, norm))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = conv1x1(inputs, HEAD)
        self.norm2 = norm(HEAD)
        self.classifier = nn.Linear(HEAD, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm1(self.conv(x))))
        x = F.relu(self.norm2(self.head(x)))
        return self.classifier(x.mean((2, 3)))
