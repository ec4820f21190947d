"""Shapes as data: those of the paper's networks, and small ones to rehearse on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from gemkern.models import build

Shape = tuple[int, ...]


class Conv(NamedTuple):
    """A square convolution on square images, without groups; padded so that stride 1 keeps size."""

    net: str
    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        kernel = f"{self.kernel}x{self.kernel}{stride}"
        return f"{self.net} {self.inputs}->{self.outputs} {kernel} at {self.size}"


RESNET20 = (
    Conv("resnet20", 16, 16, 32), Conv("resnet20", 16, 32, 32, stride=2),
    Conv("resnet20", 32, 32, 16), Conv("resnet20", 64, 64, 8),
)  # fmt: skip
VGG16 = (
    Conv("vgg16", 64, 64, 32), Conv("vgg16", 64, 128, 16), Conv("vgg16", 128, 128, 16),
    Conv("vgg16", 128, 256, 8), Conv("vgg16", 256, 256, 8), Conv("vgg16", 256, 512, 4),
    Conv("vgg16", 512, 512, 4), Conv("vgg16", 512, 512, 2),
)  # fmt: skip
RESNET18 = (
    Conv("resnet18", 128, 128, 16), Conv("resnet18", 256, 256, 8), Conv("resnet18", 512, 512, 4),
    Conv("resnet18", 64, 128, 32, stride=2), Conv("resnet18", 256, 512, 8, kernel=1, stride=2),
)  # fmt: skip
RESNET50 = (
    Conv("resnet50", 64, 64, 56), Conv("resnet50", 64, 256, 56, kernel=1),
    Conv("resnet50", 128, 128, 28), Conv("resnet50", 512, 128, 28, kernel=1),
    Conv("resnet50", 256, 256, 14), Conv("resnet50", 1024, 256, 14, kernel=1),
    Conv("resnet50", 512, 512, 7), Conv("resnet50", 512, 2048, 7, kernel=1),
)  # fmt: skip
# Width, blocks: the stages of ResNet-50 for images of 224 pixels.
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
CLASSES = 1000


def resnet50_weights() -> tuple[Shape, ...]:
    """Return the shapes of ResNet-50's 54 convolutions and classifier: 25,502,912 weights."""
    shapes: list[Shape] = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in STAGES:
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return (*shapes, (CLASSES, inputs))


def weights_of(model: str) -> tuple[Shape, ...]:
    """Return the shapes of the weights that `gemkern.convert` would mask."""
    layers = build(model).modules()
    return tuple(
        tuple(one.weight.shape) for one in layers if isinstance(one, nn.Conv2d | nn.Linear)
    )


@dataclass(frozen=True)
class Shapes:
    """The sizes of a run.

    Attributes:
        layers: weights on which mask operators are checked, one of them empty.
        product: rows, inputs, outputs and image side at which products are.
        copies: bytes of device-to-device copies.
        matmul: rows, columns and depth of the largest product.
        networks: shapes of weights, for what works element by element.
        models: those that take whole steps, on `batch` images of `image` pixels a side.
        images: those that an epoch of training takes.
        linear: inputs and outputs of masked linear layers, each with `rows` rows.
        convs: masked convolutions, each with `batches` images; in float32 the first four.
        cudnn: convolutions of the paper's networks.
    """

    layers: tuple[Shape, ...]
    product: tuple[int, int, int, int]
    copies: dict[str, int]
    matmul: int
    networks: dict[str, tuple[Shape, ...]]
    models: tuple[str, ...]
    batch: int
    image: int
    images: int
    linear: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    convs: tuple[Conv, ...]
    batches: tuple[int, ...]
    cudnn: tuple[Conv, ...]


def full() -> Shapes:
    networks = {name: weights_of(name) for name in ("resnet20", "vgg16")}
    return Shapes(
        layers=((3, 4), (0, 5), (1,), (4, 2, 3, 3), (70, 33, 3, 3), (129, 257)),
        product=(300, 192, 136, 14),
        copies={"1 GB": 10**9, "20 MB": 20 * 10**6},
        matmul=8192,
        networks={**networks, "resnet50": resnet50_weights()},
        models=("vgg16", "resnet18", "resnet20"),
        batch=128,
        image=32,
        images=50_000,
        linear=((512, 512), (2048, 1000), (4096, 4096)),
        rows=(1, 4, 16, 64, 256, 1024, 8192, 65536),
        convs=(*RESNET20, *VGG16, *RESNET50),
        batches=(1, 128),
        cudnn=(*VGG16, *RESNET18, *RESNET20, *RESNET50),
    )


def rehearsal() -> Shapes:
    network, conv = ((4, 2, 3, 3), (3, 5)), Conv("tiny", 4, 8, 4)
    return Shapes(
        layers=((3, 4), (0, 5), (1,), (4, 2, 3, 3), (37, 29)),
        product=(9, 10, 12, 4),
        copies={"1 GB": 4096, "20 MB": 1024},
        matmul=16,
        networks=dict.fromkeys(("resnet20", "vgg16", "resnet50"), network),
        models=("resnet8",),
        # Of two images, a last stage of one pixel has next to no variance, and float16 overflows.
        batch=4,
        image=4,
        images=4,
        linear=((16, 8),),
        rows=(1, 4),
        convs=(conv,),
        batches=(1,),
        cudnn=(conv,),
    )
