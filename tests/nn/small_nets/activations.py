"""Every activation behind a convolution, a norm and a linear layer, in place and not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import Apply, conv, framed, unit
from small_nets.registry import net


class Everywhere(nn.Module):
    """A change behind a convolution, behind a norm and behind a linear layer."""

    def __init__(self, change: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3), conv(), conv(bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.linear, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
        self.changes = nn.ModuleList([change() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        behind_conv, behind_norm, behind_linear = self.changes
        x = behind_conv(self.first(x))
        x = behind_norm(self.norm(self.second(x)))
        x = self.third(x).mean((2, 3))
        return self.last(behind_linear(self.linear(x)))


WITH_AND_WITHOUT_PLACE = (
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.RReLU,
    nn.Dropout,
    nn.AlphaDropout,
    partial(nn.Threshold, 0.1, -0.2),
)
OTHERS = (nn.GELU, nn.PReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.Softsign)


def _name(kind: Callable[[], nn.Module]) -> str:
    return type(kind()).__name__.lower()


for kind in WITH_AND_WITHOUT_PLACE:
    net(_name(kind))(partial(Everywhere, kind))
    net(f"{_name(kind)}_in_place")(partial(Everywhere, partial(kind, inplace=True)))
for kind in OTHERS:
    net(_name(kind))(partial(Everywhere, kind))


def _channels_set_to_zero(y: Tensor) -> Tensor:
    y[:, :2] = 0
    return y


def _view_changed(y: Tensor) -> Tensor:
    y[:, 0].mul_(2)
    return y


def _slices_changed(y: Tensor) -> Tensor:
    y[:, :4].clamp_(min=0)
    y.select(1, 5).mul_(-1)
    return y


def _flat_changed(y: Tensor) -> Tensor:
    y.flatten(1).mul_(0.5)
    return y


def _negative_ones_set(y: Tensor) -> Tensor:
    y[y < 0] = 0
    return y


def _data_changed(y: Tensor) -> Tensor:
    y.data.clamp_(min=-0.5)
    return y


def _data_set(y: Tensor) -> Tensor:
    y.data = y.data * 0.5
    return y


def _changed_and_dropped(y: Tensor) -> Tensor:
    y.mul_(2).add_(0.1)
    return y


def _changed_through_another_name(y: Tensor) -> Tensor:
    kept = y
    y = y.add_(0.3)
    y = torch.tanh(y)
    return kept + y


def _read_before_and_after(y: Tensor) -> Tensor:
    before = y.mean()
    y.mul_(3)
    return y - before - y.mean()


def _changed_under_no_grad(y: Tensor) -> Tensor:
    with torch.no_grad():
        y.mul_(0.5)
    return y


def _written_out(y: Tensor) -> Tensor:
    with torch.no_grad():
        shift = torch.empty_like(y)
        torch.mul(y, 0.1, out=shift)
    return y + shift


def _augmented(y: Tensor) -> Tensor:
    y *= 2
    y -= 0.1
    y /= 3
    return y


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional_relu": F.relu,
    "functional_relu_in_place": lambda y: F.relu(y, inplace=True),
    "functional_relu_by_position": lambda y: F.relu(y, True),
    "functional_relu_": F.relu_,
    "torch_relu": torch.relu,
    "torch_relu_": lambda y: torch.relu_(y),
    "method_relu": lambda y: y.relu(),
    "method_relu_": lambda y: y.relu_(),
    "method_relu_dropped": lambda y: (y.relu_(), y)[1],
    "functional_silu_in_place": lambda y: F.silu(y, inplace=True),
    "leaky_relu_": lambda y: F.leaky_relu_(y, 0.1),
    "threshold_": lambda y: F.threshold_(y, 0.0, -0.1),
    "mul_": lambda y: y.mul_(2),
    "mul_and_add_dropped": _changed_and_dropped,
    "add_a_number": lambda y: y.add_(1.0).relu(),
    "relu_twice": lambda y: y.relu_().relu(),
    "negative_relu": lambda y: y.neg_().relu_(),
    "clamp_": lambda y: y.clamp_(min=0.0, max=6.0),
    "clamp": lambda y: torch.clamp(y, -1, 1),
    "maximum": lambda y: torch.maximum(y, torch.zeros_like(y)),
    "where": lambda y: torch.where(y > 0, y, 0.1 * y),
    "swish_by_hand": lambda y: y * torch.sigmoid(y),
    "swish_by_hand_in_place": lambda y: y.mul(y.sigmoid()).mul_(2),
    "softmax_of_channels": lambda y: F.softmax(y, dim=1),
    "masked_fill_": lambda y: y.masked_fill_(y < 0, 0.0),
    "index_fill_": lambda y: y.index_fill_(1, torch.tensor([1, 2]), 0.5),
    "channels_set_to_zero": _channels_set_to_zero,
    "view_changed": _view_changed,
    "slices_changed": _slices_changed,
    "flat_changed": _flat_changed,
    "negative_ones_set": _negative_ones_set,
    "data_changed": _data_changed,
    "data_set": _data_set,
    "augmented": _augmented,
    "changed_through_another_name": _changed_through_another_name,
    "read_before_and_after": _read_before_and_after,
    "changed_under_no_grad": _changed_under_no_grad,
    "written_out": _written_out,
    "centred": lambda y: y.sub_(y.mean()),
    "detached_scale": lambda y: y / (1 + y.detach().abs().amax()),
    "drop_then_relu_": lambda y: F.relu_(F.dropout(y, 0.2)),
}
for name, spelling in SPELLINGS.items():
    net(name)(partial(Everywhere, partial(Apply, spelling)))

net("dropout2d")(lambda: framed(nn.Dropout2d(0.3), conv(), nn.Dropout2d(0.3, inplace=True), unit()))
net("glu")(lambda: framed(conv(8, 16), nn.BatchNorm2d(16), nn.GLU(dim=1), unit()))
net("crelu")(
    lambda: framed(conv(), Apply(lambda y: F.relu(torch.cat([y, -y], 1))), unit(16), conv())
)
net("maxout")(lambda: framed(conv(8, 16), Apply(lambda y: y.unflatten(1, (8, 2)).amax(2)), unit()))
