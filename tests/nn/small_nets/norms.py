"""Norms of all kinds, and batch norm in every mode that people put it in."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from small_nets.parts import Apply, conv, framed, head, unit
from small_nets.registry import TOKENS, VECTORS, net


def _around(norm: nn.Module) -> nn.Module:
    return framed(conv(), norm, nn.ReLU(inplace=True), conv())


net("batch_norm_plain")(lambda: _around(nn.BatchNorm2d(8, affine=False)))
net("batch_norm_untracked")(lambda: _around(nn.BatchNorm2d(8, track_running_stats=False)))
net("batch_norm_cumulative")(lambda: _around(nn.BatchNorm2d(8, momentum=None)))
net("batch_norm_momentum")(lambda: _around(nn.BatchNorm2d(8, momentum=0.9)))
net("batch_norm_still")(lambda: _around(nn.BatchNorm2d(8, momentum=0.0)))
net("batch_norm_eps")(lambda: _around(nn.BatchNorm2d(8, eps=0.5)))
net("group_norm")(lambda: _around(nn.GroupNorm(2, 8)))
net("group_norm_of_one")(lambda: _around(nn.GroupNorm(1, 8)))
net("instance_norm")(lambda: _around(nn.InstanceNorm2d(8)))
net("instance_norm_tracked")(
    lambda: _around(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
)
net("layer_norm_of_images")(lambda: _around(nn.LayerNorm([8, 12, 12])))
net("local_response_norm")(lambda: _around(nn.LocalResponseNorm(2)))
net("functional_layer_norm")(lambda: _around(Apply(lambda y: F.layer_norm(y, y.shape[1:]))))
net("functional_normalize")(lambda: _around(Apply(lambda y: F.normalize(y, dim=1))))
net("batch_norm_in_volumes")(
    lambda: framed(conv(), nn.Unflatten(1, (4, 2)), nn.BatchNorm3d(4), nn.Flatten(1, 2), unit())
)
net("batch_norm_of_vectors", VECTORS)(
    lambda: nn.Sequential(
        nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 5)
    )
)
net("batch_norm_of_tokens", TOKENS)(
    lambda: nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(10), nn.ReLU(True), nn.Linear(8, 5))
)
net("rms_norm", TOKENS)(lambda: nn.Sequential(nn.Linear(16, 8), nn.RMSNorm(8), nn.Linear(8, 5)))
net("batch_norm_first")(lambda: nn.Sequential(nn.BatchNorm2d(3), unit(3), head()))
net("batch_norm_last")(lambda: nn.Sequential(unit(3), conv(), nn.BatchNorm2d(8)))
net("batch_norm_behind_pooling")(
    lambda: framed(conv(), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(), conv())
)
net("batch_norm_behind_activation")(
    lambda: framed(conv(), nn.ReLU(inplace=True), nn.BatchNorm2d(8), conv())
)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of images, as in ConvNeXt."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BatchNormAct2d(nn.BatchNorm2d):
    """A norm with its activation, as in timm."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.act = nn.SiLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class FunctionalNorm2d(nn.BatchNorm2d):
    """A norm that calls `F.batch_norm` itself."""

    def forward(self, input: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(
            input, *statistics, self.weight, self.bias, self.training, 0.2, self.eps
        )


class NormByHand(nn.BatchNorm2d):
    """A norm that measures by itself, and moves its statistics under no_grad."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = input.mean((0, 2, 3)), input.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.running_mean.mul_(0.9).add_(mean, alpha=0.1)
                self.running_var.copy_(0.9 * self.running_var + 0.1 * var)
        assert mean is not None
        assert var is not None
        shape = (1, -1, 1, 1)
        scaled = (input - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return scaled * self.weight.view(shape) + self.bias.view(shape)


class FixedNorm2d(nn.Module):
    """A norm whose numbers are all buffers, as in torchvision's detectors."""

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, 0.5 + torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (buffer.view(1, -1, 1, 1) for buffer in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


for kind in (LayerNorm2d, BatchNormAct2d, FunctionalNorm2d, NormByHand, FixedNorm2d):
    net(f"subclass_{kind.__name__.lower()}")(lambda kind=kind: _around(kind(8)))


class TorchBatchNorm(nn.Module):
    """`torch.batch_norm` on a module's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head, self.bn = unit(3), conv(), head(), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        bn, y = self.bn, self.conv(self.stem(x))
        y = torch.batch_norm(
            y, bn.weight, bn.bias, bn.running_mean, bn.running_var, self.training, 0.1, bn.eps,
            False,
        )  # fmt: skip
        return self.head(F.relu_(y))


net("torch_batch_norm")(TorchBatchNorm)


class Frozen(nn.Sequential):
    """A network whose norms keep their statistics in training, and learn or not."""

    def __init__(self, learn: bool) -> None:
        super().__init__(unit(3), unit(), BasicSum(), head())
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.requires_grad_(learn)
        self.train()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class BasicSum(nn.Module):
    """A residual sum of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


net("frozen_norms")(partial(Frozen, False))
net("frozen_statistics")(partial(Frozen, True))


@net("one_norm_frozen")
class OneFrozen(nn.Module):
    """A norm that is in eval() for one of its two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        y = F.relu(self.norm(x))
        training = self.norm.training
        self.norm.eval()
        z = F.relu(self.norm(x))
        self.norm.train(training)
        return self.head(y + z)


@net("statistics_read")
class StatisticsRead(nn.Module):
    """A forward pass that reads what its norm has just measured."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        before = self.norm.running_mean.clone()
        y = self.norm(self.conv(self.stem(x)))
        moved = self.norm.running_mean - before
        calls = int(self.norm.num_batches_tracked)
        return self.head(F.relu(y) * (1 + moved.view(1, -1, 1, 1))), moved, calls


@net("statistics_as_penalty")
class StatisticsAsPenalty(nn.Module):
    """A distance of the batch's statistics to the running ones, by a hook of the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        penalties: list[Tensor] = []

        def measure(norm: Any, inputs: tuple[Tensor], _: Tensor) -> None:
            penalties.append((inputs[0].mean((0, 2, 3)) - norm.running_mean).norm())

        handle = self.norm.register_forward_hook(measure)
        y = self.head(F.relu(self.norm(self.conv(self.stem(x)))))
        handle.remove()
        return y, penalties[0]


@net("split_batch_norm")
class SplitNorm(nn.Module):
    """A norm for each half of the batch, as for adversarial images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = unit(3), conv(), head()
        self.clean, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        if not self.training:
            return self.head(self.clean(x).relu())
        clean, other = x[:4], x[4:]
        return self.head(torch.cat([self.clean(clean), self.other(other)]).relu())


@net("adaptive_instance_norm")
class Styled(nn.Module):
    """Scale and shift of a norm made from the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = unit(3), conv(), head()
        self.norm, self.style = nn.BatchNorm2d(8, affine=False), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale, shift = self.style(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return self.head((self.norm(self.conv(x)) * (1 + scale) + shift).relu())


net("weight_norm")(
    lambda: framed(unit(), parametrizations.weight_norm(conv()), nn.BatchNorm2d(8), unit())
)
net("spectral_norm")(
    lambda: framed(unit(), parametrizations.spectral_norm(conv()), nn.LeakyReLU(0.1, True), unit())
)
