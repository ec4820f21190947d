"""The blocks of known families of convolutional networks, as their authors spell them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import Apply, conv, framed, head, unit
from small_nets.registry import VECTORS, net

net("lenet")(
    lambda: nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 16), nn.Tanh(),
        nn.Linear(16, 5),
    )
)  # fmt: skip
net("alexnet")(
    lambda: nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(3), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 16),
        nn.ReLU(inplace=True), nn.Linear(16, 5),
    )
)  # fmt: skip
net("vgg_bn")(lambda: nn.Sequential(unit(3), unit(), nn.MaxPool2d(2, 2), unit(8, 16), head(16)))
net("vgg_biased")(
    lambda: nn.Sequential(
        conv(3, 8, bias=True), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2, 2),
        conv(bias=True), nn.ReLU(True), conv(bias=True), head(),
    )
)  # fmt: skip
net("all_convolutional")(
    lambda: nn.Sequential(unit(3), unit(stride=2), conv(8, 5, 1), nn.AvgPool2d(6), nn.Flatten())
)
net("dilated")(
    lambda: framed(unit(padding=2, dilation=2), unit(padding=4, dilation=(4, 1), stride=2))
)


@net("densenet")
class DenseNet(nn.Module):
    """Features that grow, each layer's norm before its convolution, and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3), head(10)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 4 * i) for i in range(3)])
        self.convs = nn.ModuleList([conv(8 + 4 * i, 4) for i in range(3)])
        self.norm, self.transition = nn.BatchNorm2d(20), conv(20, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.convs, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        x = self.transition(F.relu(self.norm(torch.cat(features, dim=1))))
        return self.head(F.avg_pool2d(x, kernel_size=2, stride=2))


@net("inception")
class Inception(nn.Module):
    """Branches of different windows, joined by their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3), head(16)
        self.one, self.three = unit(8, 4, 1), nn.Sequential(unit(8, 4, 1), unit(4, 4))
        self.five = nn.Sequential(unit(8, 4, (1, 3)), unit(4, 4, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branches = [branch(x) for branch in (self.one, self.three, self.five, self.pool)]
        return self.head(torch.cat(branches, 1))


@net("googlenet")
class AuxiliaryHeads(nn.Module):
    """A second classifier while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aux, self.body, self.head = unit(3), head(), unit(), head()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        aux = self.aux(x) if self.training else None
        x = self.head(self.body(x))
        if self.training and aux is not None:
            return x, aux
        return x


@net("squeezenet")
class Fire(nn.Module):
    """The squeeze of SqueezeNet, and two expansions of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 4, 1)
        self.one, self.three = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)
        self.activation, self.last = nn.ReLU(inplace=True), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.squeeze(self.activation(self.stem(x))))
        x = torch.cat([self.activation(self.one(x)), self.activation(self.three(x))], 1)
        return torch.flatten(F.adaptive_avg_pool2d(self.last(x), (1, 1)), 1)


class InvertedResidual(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(8, 16, 1), nn.BatchNorm2d(16), activation(inplace=True),
            conv(16, 16, groups=16), nn.BatchNorm2d(16), activation(inplace=True),
            conv(16, 8, 1), nn.BatchNorm2d(8),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SqueezeExcitation(nn.Module):
    """Channels scaled by what a small perceptron makes of their means."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.relu(self.fc1(self.avgpool(x)), inplace=True)
        return torch.sigmoid(self.fc2(scale)) * x


net("mobilenet_v1")(lambda: framed(unit(groups=8), unit(8, 16, 1), unit(16, 16, groups=16), of=16))
net("mobilenet_v2")(lambda: framed(InvertedResidual(), InvertedResidual()))
net("mobilenet_v3")(lambda: framed(InvertedResidual(nn.Hardswish), SqueezeExcitation(), conv()))
net("efficientnet")(lambda: framed(InvertedResidual(nn.SiLU), SqueezeExcitation(), unit()))
net("squeeze_excitation")(lambda: framed(unit(), SqueezeExcitation(), unit()))


@net("squeeze_excitation_linear")
class LinearExcitation(nn.Module):
    """The same of linear layers, behind a norm and before a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.main, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True), nn.Linear(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.main(x))
        b, c, _, _ = y.size()
        scale = self.fc(y.mean((2, 3)).view(b, c)).sigmoid().view(b, c, 1, 1)
        return self.head(F.relu(y * scale.expand_as(y) + x))


@net("cbam")
class ConvolutionalAttention(nn.Module):
    """Attention to channels, then to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(3), conv(), head()
        self.mlp = nn.Sequential(conv(8, 4, 1), nn.ReLU(), conv(4, 8, 1))
        self.pixels = conv(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        mean, largest = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(largest))
        seen = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return self.head(x * self.pixels(seen).sigmoid())


@net("eca")
class EfficientAttention(nn.Module):
    """Attention by a convolution over neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(3), unit(), head()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        y = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        y = self.conv(y).transpose(-1, -2).unsqueeze(-1)
        return self.head(x * y.sigmoid().expand_as(x))


class UNet(nn.Module):
    """Two levels down and up, with skip connections."""

    def __init__(self, up: nn.Module) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = unit(3), unit(), unit()
        self.pool, self.up = nn.MaxPool2d(2), up
        self.up2, self.up1, self.last = unit(16), unit(16), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.up2(torch.cat([self.up(x), second], dim=1))
        return self.last(self.up1(torch.cat((first, self.up(x)), 1)))


net("unet_transposed")(lambda: UNet(nn.ConvTranspose2d(8, 8, 2, stride=2)))
net("unet_upsampled")(lambda: UNet(nn.Upsample(scale_factor=2, mode="bilinear")))
net("unet_interpolated")(lambda: UNet(Apply(lambda x: F.interpolate(x, scale_factor=2.0))))


@net("feature_pyramid")
class FeaturePyramid(nn.Module):
    """Maps of three sizes, the smaller ones added to the larger."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList([unit(3), unit(stride=2), unit(stride=2)])
        self.laterals = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(3)])
        self.smooth = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for down, lateral in zip(self.downs, self.laterals, strict=True):
            x = down(x)
            maps.append(lateral(x))
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        return [smooth(one) for smooth, one in zip(self.smooth, maps, strict=True)]


@net("aspp")
class SpatialPyramid(nn.Module):
    """Dilated branches and the mean of the image, as in DeepLab."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = unit(3), nn.Conv2d(24, 2, 1)
        self.branches = nn.ModuleList([unit(padding=d, dilation=d) for d in (1, 2)])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(size=1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        y = [branch(x) for branch in self.branches]
        y.append(F.interpolate(self.pooled(x), x.shape[2:], mode="bilinear", align_corners=False))
        return {"out": self.last(torch.cat(y, dim=1))}


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, and a perceptron over channels that come last."""

    def __init__(self) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.gamma = nn.Parameter(0.5 * torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


net("convnext")(
    lambda: nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), ConvNeXtBlock(), ConvNeXtBlock(), head())
)


@net("shufflenet")
class ShuffleUnit(nn.Module):
    """Half of the channels convolved, then all of them shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3), head()
        self.branch = nn.Sequential(
            unit(4, 4, 1), conv(4, 4, groups=4), nn.BatchNorm2d(4), unit(4, 4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat((kept, self.branch(changed)), dim=1)
            b, c, h, w = x.size()
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.head(x)


@net("ghostnet")
class GhostModule(nn.Module):
    """Cheap maps made of the first ones, and cut to size."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap, self.head = unit(3, 6), unit(6, 6, groups=6), head(10)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return self.head(torch.cat([first, self.cheap(first)], dim=1)[:, :10, :, :])


@net("res2net")
class Res2Net(nn.Module):
    """Groups of channels, each of which reads the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3), head()
        self.units = nn.ModuleList([unit(2, 2) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        spx = torch.split(x, 2, 1)
        y, outs = spx[0], [spx[0]]
        for group, one in zip(spx[1:], self.units, strict=True):
            y = one(y + group)
            outs.append(y)
        return self.head(torch.cat(outs, 1) + x)


net("resnext")(lambda: framed(unit(groups=2), unit(8, 16, groups=4), conv(16, 16, 1), of=16))
net("hourglass")(
    lambda: framed(nn.MaxPool2d(2), unit(), nn.UpsamplingNearest2d(scale_factor=2), unit())
)
net("gan_generator", VECTORS)(
    lambda: nn.Sequential(
        nn.Linear(32, 8 * 9), nn.Unflatten(1, (8, 3, 3)), nn.BatchNorm2d(8), nn.ReLU(True),
        nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
        conv(), nn.BatchNorm2d(8), nn.ReLU(True), conv(8, 3), nn.Tanh(),
    )
)  # fmt: skip
net("super_resolution")(
    lambda: nn.Sequential(conv(3, bias=True), nn.PReLU(), conv(8, 12), nn.PixelShuffle(2))
)
net("autoencoder")(
    lambda: nn.Sequential(
        unit(3), nn.MaxPool2d(2), conv(8, 4, 1), nn.Sigmoid(), nn.ConvTranspose2d(4, 8, 2, 2),
        nn.ReLU(), conv(8, 3),
    )
)  # fmt: skip


@net("highway")
class Highway(nn.Module):
    """A gate between a layer and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.layer, self.head = unit(3), conv(bias=True), unit(), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.gate(x))
        return self.head(gate * self.layer(x) + (1 - gate) * x)


@net("selective_kernel")
class SelectiveKernel(nn.Module):
    """Two branches weighed by a softmax over their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = unit(3), unit(), unit(size=5), head()
        self.fc = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branches = torch.stack([self.a(x), self.b(x)], dim=1)
        weights = self.fc(branches.sum(1).mean(dim=(-2, -1))).view(-1, 2, 8, 1, 1).softmax(1)
        return self.head((branches * weights).sum(1))
