"""Networks by name."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.models.conv import Conv4
from gemkern.models.initial import Norm, initialise, norm_layer
from gemkern.models.mobilenet import MobileNetV2
from gemkern.models.resnet import cifar_resnet, resnet18, resnet50, tiny_resnet18
from gemkern.models.vgg import VGG16
from gemkern.models.wide_resnet import WideResNet28
from gemkern.numbers import whole_number

# For each name: the smallest image side, and the maker from channels, classes, image side and norm.
Maker = Callable[[int, int, int, Norm], nn.Module]
MAKERS: dict[str, tuple[int, Maker]] = {
    "resnet8": (4, lambda channels, classes, size, norm: cifar_resnet(1, channels, classes, norm)),
    "resnet20": (4, lambda channels, classes, size, norm: cifar_resnet(3, channels, classes, norm)),
    "resnet32": (4, lambda channels, classes, size, norm: cifar_resnet(5, channels, classes, norm)),
    "resnet18": (8, lambda channels, classes, size, norm: resnet18(channels, classes, norm)),
    # Of 17 pixels, halved five times and rounded up, two are left for the last stride.
    "tiny_resnet18": (
        17,
        lambda channels, classes, size, norm: tiny_resnet18(channels, classes, norm),
    ),
    "resnet50": (17, lambda channels, classes, size, norm: resnet50(channels, classes, norm)),
    "vgg16": (16, lambda channels, classes, size, norm: VGG16(channels, classes, size, norm)),
    "wide_resnet28_2": (
        4,
        lambda channels, classes, size, norm: WideResNet28(channels, classes, norm),
    ),
    "mobilenet_v2": (
        8,
        lambda channels, classes, size, norm: MobileNetV2(channels, classes, norm),
    ),
    "conv4": (4, lambda channels, classes, size, norm: Conv4(channels, classes, size)),
}
NAMES = tuple(MAKERS)
_DRAWING = threading.Lock()


def build(
    name: str,
    *,
    classes: int = 10,
    channels: int = 3,
    image_size: int = 32,
    affine: bool = False,
    init: str = "signed_constant",
    seed: int | None = None,
) -> nn.Module:
    """Return the network called `name` with fresh initial weights.

    It maps float images [N, channels, H, W] to logits [N, classes]. Convolutions and the classifier
    have no bias, as in Rare Gems (NeurIPS 2022).

    Args:
        image_size: side of the square images, in pixels.
        affine: whether batch norms learn a scale and a shift; the paper's do not.
        init: "signed_constant", "kaiming_normal" or "signed_constant_authors"
            (`gemkern.models.initial`).
        seed: the weights are a function of it and the global random state is left alone; None
            draws from the global random state.

    Raises:
        GemkernError: an unknown name or initialisation, a size that does not work, or a seed that
            is no whole number.
    """
    if name not in MAKERS:
        raise GemkernError(f"no model is called {name!r}: choose one of {', '.join(NAMES)}")
    smallest, _ = MAKERS[name]
    if image_size < smallest:
        raise GemkernError(
            f"{name} halves its images too often for {image_size} pixels: "
            f"give images of at least {smallest} pixels a side"
        )
    if classes < 1 or channels < 1:
        raise GemkernError(
            f"{name} cannot have {channels} input channels and {classes} classes: "
            "give at least 1 of each"
        )
    seed = None if seed is None else whole_number("the seed", seed)
    if seed is None:
        return _made(name, classes, channels, image_size, affine, init)
    # Threads share the global random state: one draws at a time.
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return _made(name, classes, channels, image_size, affine, init)


def _made(
    name: str, classes: int, channels: int, image_size: int, affine: bool, init: str
) -> nn.Module:
    _, make = MAKERS[name]
    model = make(channels, classes, image_size, norm_layer(affine))
    initialise(model, init)
    return model
