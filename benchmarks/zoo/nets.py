"""The animals: public networks with random weights, and what they take. Nothing is downloaded.

A library is imported when one of its networks is built, so the table can be read without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS, SIDE, CLASSES = 3, 64, 10
# Of the tiny transformers.
WORDS, LENGTH = 100, 16


@dataclass(frozen=True)
class Net:
    """A network of the zoo.

    Attributes:
        library: where it comes from.
        name: what it is called there.
        build: makes it, with random weights.
        side: of its images; 0 where it takes words.
        batch: of the steps that are timed, smaller where memory or time asks.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    side: int = SIDE
    batch: int = 32

    @property
    def title(self) -> str:
        return f"{self.library}/{self.name}"

    def inputs(self, batch: int, seed: int = 0) -> Tensor:
        """Return images [batch, 3, side, side], or words [batch, length]."""
        generator = torch.Generator().manual_seed(seed)
        if not self.side:
            return torch.randint(WORDS, (batch, LENGTH), generator=generator)
        return torch.randn(batch, CHANNELS, self.side, self.side, generator=generator)


def vision(name: str, maker: str = "", *, side: int = SIDE, batch: int = 32, **options: Any) -> Net:
    """Return a network of torchvision; `maker` is the function that makes it."""

    def build() -> nn.Module:
        module, _, function = (maker or name).rpartition(".")
        models = importlib.import_module(f"torchvision.models{module and f'.{module}'}")
        return getattr(models, function)(**{"num_classes": CLASSES, **options})

    return Net("torchvision", name, build, side, batch)


def timm(name: str, *, side: int = SIDE, batch: int = 32, **options: Any) -> Net:
    """Return a network of timm."""

    def build() -> nn.Module:
        return importlib.import_module("timm").create_model(name, num_classes=CLASSES, **options)

    return Net("timm", name, build, side, batch)


def transformer(name: str, config: str, *, side: int = 0, **options: Any) -> Net:
    """Return a network of transformers of a tiny configuration."""

    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        return getattr(library, name)(getattr(library, config)(**options))

    return Net("transformers", name, build, side)


WIDTH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**WIDTH, "intermediate_size": 128}
STAGES = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
ENDS = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0}
TINY_VIT = {"patch_size": 16, "num_layers": 4, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}

TORCHVISION = (
    vision("resnet18"),
    vision("resnet50"),
    vision("resnext50_32x4d"),
    vision("wide_resnet50_2", batch=16),
    vision("densenet121"),
    vision("vgg11_bn", batch=16),
    vision("mobilenet_v2"),
    vision("mobilenet_v3_small"),
    vision("efficientnet_b0"),
    vision("efficientnet_v2_s", batch=16),
    vision("googlenet", init_weights=False),
    # Its second head reads windows that smaller images do not have.
    vision("inception_v3", side=299, batch=4, init_weights=False),
    vision("shufflenet_v2_x1_0"),
    vision("squeezenet1_1"),
    vision("mnasnet1_0"),
    vision("regnet_x_400mf"),
    vision("regnet_y_400mf"),
    vision("convnext_tiny", batch=16),
    vision("vit, tiny", "VisionTransformer", image_size=SIDE, **TINY_VIT),
    vision("swin_t", batch=16),
    vision(
        "deeplabv3_mobilenet", "segmentation.deeplabv3_mobilenet_v3_large", weights_backbone=None
    ),
    vision("lraspp_mobilenet", "segmentation.lraspp_mobilenet_v3_large", weights_backbone=None),
)
TIMM = (
    timm("resnet18"),
    timm("resnet10t"),
    timm("resnet18d"),
    timm("mobilenetv3_small_100"),
    timm("efficientnet_lite0"),
    timm("seresnet18"),
    timm("ecaresnet26t"),
    timm("dla34"),
    timm("hrnet_w18_small", batch=16),
    timm("ghostnet_100"),
    timm("repvgg_a0"),
    timm("res2net50_26w_4s", batch=16),
    timm("cspresnet50", batch=16),
    timm("mobilevit_xxs"),
    timm("mixer_s16_224", img_size=SIDE),
    timm("deit_tiny_patch16_224", img_size=SIDE),
)
TRANSFORMERS = (
    transformer("BertModel", "BertConfig", vocab_size=WORDS, **WIDE),
    transformer("GPT2LMHeadModel", "GPT2Config", n_embd=64, n_layer=2, n_head=4, **ENDS),
    transformer("LlamaModel", "LlamaConfig", vocab_size=WORDS, **WIDE),
    transformer("ViTModel", "ViTConfig", side=SIDE, image_size=SIDE, **WIDE),
    transformer("ResNetModel", "ResNetConfig", side=SIDE, embedding_size=32, **STAGES),
    transformer("ConvNextModel", "ConvNextConfig", side=SIDE, **STAGES),
    transformer("MobileNetV2Model", "MobileNetV2Config", side=SIDE),
    transformer("SegformerModel", "SegformerConfig", side=SIDE, depths=[1, 1, 1, 1]),
)
NETS = {net.title: net for net in (*TORCHVISION, *TIMM, *TRANSFORMERS)}
