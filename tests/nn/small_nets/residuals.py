"""Residual blocks, every spelling of their sum, and values and modules that are used twice."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import conv, framed, head, unit
from small_nets.registry import net


class Joined(nn.Module):
    """What is made of a normed convolution and of the one that reads it."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3), conv(), conv()
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.join, self.head = join, head()

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm1(self.first(image))
        y = self.norm2(self.second(x))
        return self.head(self.third(self.join(x, y)).relu())


def _added_to(x: Tensor, y: Tensor) -> Tensor:
    y += x
    return y


def _kept_and_added_to(x: Tensor, y: Tensor) -> Tensor:
    keep = y
    y += x
    return keep


def _kept_apart(x: Tensor, y: Tensor) -> Tensor:
    keep = y.clone()
    y += x
    return keep * torch.sigmoid(y)


def _read_before_sum(x: Tensor, y: Tensor) -> Tensor:
    before = y.sum()
    y.add_(x)
    return y * (1 + before.tanh())


def _sum_of_data(x: Tensor, y: Tensor) -> Tensor:
    y.data += x.data
    return y


def _half_added(x: Tensor, y: Tensor) -> Tensor:
    y[:, :4] += x[:, :4]
    return y


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "y_plus_x": lambda x, y: y + x,
    "x_plus_y": lambda x, y: x + y,
    "relu_of_sum": lambda x, y: F.relu(y + x),
    "relu_in_place_of_sum": lambda x, y: F.relu(y.add_(x), inplace=True),
    "gelu_of_sum": lambda x, y: F.gelu(x + y),
    "add_in_place": lambda x, y: y.add_(x),
    "augmented_sum": _added_to,
    "kept_and_added_to": _kept_and_added_to,
    "kept_apart": _kept_apart,
    "read_before_sum": _read_before_sum,
    "sum_of_data": _sum_of_data,
    "half_added": _half_added,
    "torch_add_alpha": lambda x, y: torch.add(x, y, alpha=2),
    "torch_add_named": lambda x, y: torch.add(input=y, other=x),
    "method_add_alpha": lambda x, y: y.add(x, alpha=2),
    "add_in_place_alpha": lambda x, y: y.add_(x, alpha=0.5),
    "sum_of_list": lambda x, y: sum([x, y]),
    "reduced": lambda x, y: functools.reduce(operator.add, [x, y, x]),
    "stacked": lambda x, y: torch.stack([x, y]).sum(0),
    "concatenated": lambda x, y: torch.cat([x[:, :4], y[:, 4:]], 1),
    "subtracted": lambda x, y: x - y,
    "multiplied": lambda x, y: x * y,
    "multiplied_in_place": lambda x, y: y.mul_(torch.sigmoid(x)),
    "scaled_sum": lambda x, y: x + 0.1 * y,
    "mean_of_two": lambda x, y: torch.lerp(x, y, 0.5),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "triple_sum": lambda x, y: x + y + x,
    "grouped_triple_sum": lambda x, y: y + (x + y).relu(),
    "swapped": lambda x, y: (lambda y, x: F.relu(x) - y)(x, y),
    "x_plus_x": lambda x, y: (x + x) + (y + y),
    "channel_means_added": lambda x, y: y + x.mean((2, 3), keepdim=True),
    "first_channel_added": lambda x, y: y + x[:, :1],
    "first_image_added": lambda x, y: y + x[0],
    "number_added": lambda x, y: y + 1 + x,
    "compared": lambda x, y: torch.maximum(x, y),
}
for name, join in JOINS.items():
    net(name)(partial(Joined, join))


class BasicBlock(nn.Module):
    """The block of ResNet-18, as torchvision spells it."""

    def __init__(self, of: int, to: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(of, to, stride=stride), nn.BatchNorm2d(to)
        self.conv2, self.bn2 = conv(to, to), nn.BatchNorm2d(to)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or of != to:
            self.downsample = nn.Sequential(conv(of, to, 1, stride=stride), nn.BatchNorm2d(to))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


net("resnet_basic")(lambda: framed(BasicBlock(8, 8), BasicBlock(8, 16, 2), of=16))


@net("resnet_bottleneck")
class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3, 16, stride=2), head(16)
        self.reduce, self.middle = unit(16, 4, 1), unit(4, 4)
        self.expand, self.norm = conv(4, 16, 1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.norm(self.expand(self.middle(self.reduce(x)))) + x))


@net("resnet_preactivation")
class Preactivation(nn.Module):
    """Two blocks whose norms come first, and whose sums are normed by the next."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3), head()
        self.convs = nn.ModuleList([conv() for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(5)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in range(0, 4, 2):
            y = self.convs[block](F.relu(self.norms[block](x)))
            x = x + self.convs[block + 1](F.relu(self.norms[block + 1](y)))
        return self.head(F.relu(self.norms[-1](x)))


@net("resnet_preactivated_shortcut")
class PreactivatedShortcut(nn.Module):
    """The first activation serves the shortcut too, as in Wide ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.conv1 = conv(3), nn.BatchNorm2d(8), conv(8, 16, stride=2)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), conv(16, 16)
        self.shortcut, self.head = conv(8, 16, 1, stride=2), head(16)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.norm1(self.stem(x)))
        y = self.conv2(torch.relu_(self.norm2(self.conv1(out))))
        return self.head(y.add_(self.shortcut(out)).relu_())


@net("resnet_option_a")
class OptionA(nn.Module):
    """A shortcut without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3, 8), head(16)
        self.main = nn.Sequential(unit(8, 16, stride=2), conv(16, 16), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        return self.head(F.relu(self.main(x) + shortcut))


@net("resnet_d")
class AveragedShortcut(nn.Module):
    """A shortcut that is averaged before its convolution, and a zero as the last norm's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3, 8), head()
        self.main = nn.Sequential(unit(stride=2), conv(), nn.BatchNorm2d(8))
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), conv(size=1)
        )
        nn.init.zeros_(self.main[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(self.main(x) + self.shortcut(x)))


class Reused(nn.Module):
    """Parts of which `use` takes some more than once."""

    def __init__(self, use: Callable[[Reused, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head = unit(3, 8), head()
        self.a, self.b = conv(), conv()
        self.norm, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.block = unit()
        self.last, self.use = conv(), use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.use(self, self.stem(x)))))


def _norm_read_twice(m: Reused, x: Tensor) -> Tensor:
    y = m.norm(m.a(x))
    return m.b(F.relu(y)) + m.block(y)


def _conv_read_twice(m: Reused, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(m.norm(y).relu()) + m.block(y)


def _conv_read_by_two_norms(m: Reused, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.block(m.b(F.relu(m.norm(y)) + F.relu(m.other(-y))))


def _looped(m: Reused, x: Tensor) -> Tensor:
    for _ in range(3):
        x = m.block(x) + x
    return m.b(m.a(x))


def _looped_norm(m: Reused, x: Tensor) -> Tensor:
    for layer in (m.a, m.b, m.last):
        x = F.relu(m.norm(layer(x)))
    return m.block(x)


def _conv_changed_between(m: Reused, x: Tensor) -> Tensor:
    y = m.a(x)
    before = y.mean()
    y += 1
    return m.b(m.norm(y).relu() + y * before) + m.block(x)


def _norm_then_activated_in_place(m: Reused, x: Tensor) -> Tensor:
    y = m.norm(m.a(x))
    z = y * 0.5
    y.relu_()
    return m.b(y + z) + m.block(x)


USES: dict[str, Callable[[Reused, Tensor], Tensor]] = {
    "two_norms_added": lambda m, x: m.block(F.relu(m.norm(m.a(x)) + m.other(m.b(x)))),
    "two_convs_added": lambda m, x: m.block(m.norm(m.a(x) + m.b(x)).relu()),
    "norm_read_twice": _norm_read_twice,
    "conv_read_twice": _conv_read_twice,
    "conv_read_by_two_norms": _conv_read_by_two_norms,
    "conv_changed_between": _conv_changed_between,
    "norm_then_activated_in_place": _norm_then_activated_in_place,
    "norm_called_twice_on_one_value": lambda m, x: (
        (lambda y: m.block(m.norm(y) + m.norm(y)))(m.a(m.b(x)))
    ),
    "norm_of_norm": lambda m, x: m.block(m.norm(m.other(m.a(m.b(x)))).relu()),
    "norm_shared": lambda m, x: m.block(m.norm(m.b(m.norm(m.a(x)).relu())).relu()),
    "conv_shared": lambda m, x: m.block(m.other(m.a(m.norm(m.a(x)).relu())) + m.b(x)),
    "conv_shared_at_two_sizes": lambda m, x: (
        m.block(m.a(x)) + F.interpolate(m.b(m.norm(m.a(x[:, :, ::2, ::2]))), scale_factor=2)
    ),
    "block_looped": _looped,
    "norm_looped": _looped_norm,
    "norm_before_conv": lambda m, x: m.block(m.b(m.norm(x)) + m.a(m.other(x))),
    "norm_of_image_alone": lambda m, x: m.block(m.a(m.norm(x) + x)) + m.b(x),
    "result_ignored": lambda m, x: (m.norm(m.a(x)), m.block(m.b(m.a(x))))[1],
    "siamese": lambda m, x: m.block(m.b(m.a(x)) - m.norm(m.b(m.a(x.flip(3))))),
    "called_by_forward": lambda m, x: m.block.forward(m.norm.forward(m.a.forward(m.b(x)))),
    "x_plus_block_of_x_twice": lambda m, x: (lambda y: y + y)(x + m.b(m.block(m.a(x)))),
}  # fmt: skip
for name, use in USES.items():
    net(name)(partial(Reused, use))
