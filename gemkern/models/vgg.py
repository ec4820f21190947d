"""VGG-16 for small images (Simonyan and Zisserman, 2015), with batch norm and one classifier."""

from __future__ import annotations

from torch import Tensor, nn

from gemkern.models.initial import Norm

POOL = 0
LAYERS = (64, 64, POOL, 128, 128, POOL, *3 * (256,), POOL, *3 * (512,), POOL, *3 * (512,), POOL)


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions and five max poolings; what is left is averaged and classified.

    Of images of 32 pixels one is left, as in Rare Gems; smaller ones, of at least 16, are pooled
    four times.
    """

    def __init__(self, channels: int, classes: int, image_size: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in LAYERS:
            if outputs != POOL:
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
                layers += [norm(outputs), nn.ReLU()]
                channels = outputs
            elif image_size > 1:
                layers.append(nn.MaxPool2d(2))
                image_size //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
