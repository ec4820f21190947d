"""Conv-4 (Frankle and Carbin, 2019): four 3x3 convolutions and three linear layers, no norm."""

from __future__ import annotations

from torch import Tensor, nn


class Conv4(nn.Module):
    """Two pairs of convolutions, each followed by max pooling, then 256, 256 and the classes."""

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (64, 128):
            for inputs in (channels, width):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (image_size // 4) ** 2, 256, bias=False),
            nn.ReLU(),
            nn.Linear(256, 256, bias=False),
            nn.ReLU(),
            nn.Linear(256, classes, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
