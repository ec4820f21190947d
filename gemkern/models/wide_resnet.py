"""WideResNet-28-2 (Zagoruyko and Komodakis, 2016): pre-activation blocks, no dropout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.models.initial import Norm

BLOCKS = 4
WIDEN = 2


class PreActivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice; where the shape changes, a 1x1 convolution as shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        skipped = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.norm2(self.conv1(activated)))) + skipped


class WideResNet28(nn.Module):
    """A stem of 16 channels and three stages of 32, 64 and 128."""

    def __init__(self, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stages, inputs = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            outputs = WIDEN * width
            strides = [stride] + [1] * (BLOCKS - 1)
            widths = [inputs] + [outputs] * (BLOCKS - 1)
            stages.append(
                nn.Sequential(
                    *(
                        PreActivationBlock(before, outputs, s, norm)
                        for before, s in zip(widths, strides, strict=True)
                    )
                )
            )
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.norm = norm(inputs)
        self.classifier = nn.Linear(inputs, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stages(self.conv(x))))
        return self.classifier(x.mean((2, 3)))
