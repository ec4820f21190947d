"""Control flow that depends on data, on chance, on the mode and on what was called before."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import conv, head, unit
from small_nets.registry import net


class Steered(nn.Module):
    """Three blocks, of which `steer` says what to do."""

    def __init__(self, steer: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.steer = unit(3), head(), steer
        self.conv, self.norm, self.block, self.last = conv(), nn.BatchNorm2d(8), unit(), conv()
        self.calls, self.kept = 0, None
        self.register_buffer("counter", torch.zeros((), dtype=torch.long))
        self.register_buffer("bank", torch.zeros(8))

    def main(self, x: Tensor) -> Tensor:
        """Return what the parts make of x where nothing steers."""
        return self.last(F.relu(self.norm(self.conv(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.steer(self, self.stem(x))).relu())


def _branch(m: Steered, x: Tensor) -> Tensor:
    x = m.main(x)
    return -x if x.mean() > 0 else x


def _branch_of_item(m: Steered, x: Tensor) -> Tensor:
    y = m.conv(x)
    if y.max().item() > 2 and float(y.detach()[0, 0, 0, 0]) > 0:
        y = y / y.abs().max()
    return m.last(m.norm(y).relu())


def _norm_or_not(m: Steered, x: Tensor) -> Tensor:
    y = m.conv(x)
    y = m.norm(y) if (y > 0.1).any() else y
    return m.last(y.relu_())


def _halved_until_small(m: Steered, x: Tensor) -> Tensor:
    x = m.main(x)
    while x.norm() > 20:
        x = x / 2
    return x


def _counted_loop(m: Steered, x: Tensor) -> Tensor:
    for _ in range(1 + int(x.detach().mean().abs() * 100) % 3):
        x = F.relu(m.norm(m.conv(x)))
    return m.last(x)


def _checked(m: Steered, x: Tensor) -> Tensor:
    assert x.dim() == 4, x.shape
    if torch.isnan(x).any():
        raise ValueError(f"not a number in {tuple(x.shape)}")
    if not isinstance(x, Tensor) or len(x) != x.shape[0] or x.size(1) != m.conv.in_channels:
        raise TypeError(f"{x.dtype}")
    torch._assert(x.shape[2] == x.shape[3], "images are square")
    return m.main(x)


def _tried(m: Steered, x: Tensor) -> Tensor:
    try:
        return m.main(x) + x[:, :3]
    except RuntimeError:
        return m.main(x)


def _stochastic_depth(m: Steered, x: Tensor) -> Tensor:
    return x + m.main(x) if not m.training or random.random() < 0.7 else x


def _stochastic_depth_by_torch(m: Steered, x: Tensor) -> Tensor:
    if m.training and torch.rand(1).item() < 0.3:
        return x
    return x + m.main(x)


def _drop_path(m: Steered, x: Tensor) -> Tensor:
    y = m.main(x)
    if m.training:
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.8)
        y = y * keep.div_(0.8)
    return x + y


def _shake(m: Steered, x: Tensor) -> Tensor:
    share = torch.rand(x.size(0), 1, 1, 1, dtype=x.dtype) if m.training else 0.5
    return m.main(x).mul_(share) + x * (1 - share)


def _cut_out(m: Steered, x: Tensor) -> Tensor:
    if m.training:
        top, left = np.random.default_rng(m.calls).integers(0, 8, 2)
        x = x.clone()
        x[:, :, top : top + 4, left : left + 4] = 0
    m.calls += 1
    return m.main(x)


def _counted(m: Steered, x: Tensor) -> Tensor:
    m.calls += 1
    return m.main(x) * (1 + m.calls % 2)


def _counted_in_buffer(m: Steered, x: Tensor) -> Tensor:
    m.counter += 1
    return m.main(x) / (1 + 0.1 * m.counter)


def _buffer_replaced(m: Steered, x: Tensor) -> Tensor:
    x = m.main(x)
    if m.training:
        m.bank = 0.9 * m.bank + 0.1 * x.detach().mean((0, 2, 3))
    return x - m.bank.view(1, -1, 1, 1)


def _buffer_moved(m: Steered, x: Tensor) -> Tensor:
    x = m.norm(m.conv(x))
    with torch.no_grad():
        m.bank.lerp_(x.amax((0, 2, 3)), 0.1)
        m.bank[0] = m.counter
    return m.last(F.relu(x) / (1 + m.bank[:, None, None].abs()))


def _kept_from_before(m: Steered, x: Tensor) -> Tensor:
    y = m.main(x)
    before, m.kept = m.kept, y.detach()
    return y if before is None else y + 0.1 * before


def _kept_norm(m: Steered, x: Tensor) -> Tensor:
    """Keep what a norm made, and let what follows change it."""
    m.kept = m.norm(m.conv(x))
    y = m.last(m.kept.relu_())
    m.kept = m.kept.detach()
    return y


def _by_grad_mode(m: Steered, x: Tensor) -> Tensor:
    y = m.main(x)
    return y * 2 if torch.is_grad_enabled() and y.requires_grad else y * 3


def _by_mode_of_part(m: Steered, x: Tensor) -> Tensor:
    m.block.train(m.training and m.counter.item() % 2 == 0)
    m.counter.add_(1)
    return m.main(x)


def _by_list(m: Steered, x: Tensor) -> Tensor:
    x = m.norm(m.conv(x))
    weights = F.softmax(x.amax((0, 2, 3)), 0).tolist()
    return sum(weight * m.last(x.roll(i, 1)) for i, weight in enumerate(weights[:2]))


def _early_exit(m: Steered, x: Tensor) -> Tensor:
    y = F.relu(m.norm(m.conv(x)))
    if not m.training and y.var() > 0.01:
        return y
    return m.last(y)


def _noise_like(m: Steered, x: Tensor) -> Tensor:
    x = m.main(x)
    return x + 0.1 * torch.randn_like(x) if m.training else x


def _noise_of_shape(m: Steered, x: Tensor) -> Tensor:
    y = m.conv(x)
    y = y + 0.1 * torch.randn(y.shape, dtype=y.dtype)
    return m.last(m.norm(y).relu_())


def _noise_drawn_in_place(m: Steered, x: Tensor) -> Tensor:
    y = m.conv(x)
    y += torch.empty_like(y).uniform_(-0.1, 0.1)
    return m.last(F.relu(m.norm(y)))


def _permuted(m: Steered, x: Tensor) -> Tensor:
    share = random.betavariate(1.0, 1.0)
    x = share * x + (1 - share) * x[torch.randperm(len(x))]
    return m.main(x)


def _by_range_of_values(m: Steered, x: Tensor) -> Tensor:
    x = m.main(x)
    least, largest = x.min().item(), x.max().item()
    scale = max(largest - least, 1e-3) / 255
    rounded = torch.round((x.detach() - least) / scale) * scale + least
    return x + (rounded - x).detach()


def _shaped(m: Steered, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.last(m.norm(y) * y.shape[1] / y.numel() ** 0.5 + y.mean() + y.max())


STEERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "branch": _branch,
    "branch_of_item": _branch_of_item,
    "norm_or_not": _norm_or_not,
    "halved_until_small": _halved_until_small,
    "counted_loop": _counted_loop,
    "checked": _checked,
    "tried": _tried,
    "stochastic_depth": _stochastic_depth,
    "stochastic_depth_by_torch": _stochastic_depth_by_torch,
    "drop_path": _drop_path,
    "shake": _shake,
    "cut_out": _cut_out,
    "counted": _counted,
    "counted_in_buffer": _counted_in_buffer,
    "buffer_replaced": _buffer_replaced,
    "buffer_moved": _buffer_moved,
    "kept_from_before": _kept_from_before,
    "kept_norm": _kept_norm,
    "by_grad_mode": _by_grad_mode,
    "by_mode_of_part": _by_mode_of_part,
    "by_list": _by_list,
    "early_exit": _early_exit,
    "noise_like": _noise_like,
    "noise_of_shape": _noise_of_shape,
    "noise_drawn_in_place": _noise_drawn_in_place,
    "mixup": _permuted,
    "by_range_of_values": _by_range_of_values,
    "shaped": _shaped,
}
for name, steer in STEERS.items():
    net(name)(partial(Steered, steer))


class Advancing(nn.Module):
    """A network that `advance`, called between steps, changes."""

    def __init__(self, advance: Callable[[Any, int], None]) -> None:
        super().__init__()
        self.stem, self.body, self.norm, self.head = unit(3), conv(), nn.BatchNorm2d(8), head()
        self.scale, self.act, self.change = 1.0, nn.ReLU(), advance

    def advance(self, step: int) -> None:
        """Change the network, after so many steps."""
        self.change(self, step)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.body(self.stem(x)))) * self.scale)


def _scaled(m: Advancing, step: int) -> None:
    m.scale = 1 / (1 + step)


def _activation_changed(m: Advancing, step: int) -> None:
    m.act = nn.GELU() if step % 2 else nn.ReLU(inplace=True)


def _thawed(m: Advancing, step: int) -> None:
    m.stem.requires_grad_(step >= 5)


def _norm_frozen(m: Advancing, step: int) -> None:
    if step >= 5:
        m.norm.eval()


def _norm_changed(m: Advancing, step: int) -> None:
    m.norm.momentum, m.norm.eps = 1 / (2 + step), 1e-3


def _norm_reset(m: Advancing, step: int) -> None:
    if step == 5:
        m.norm.reset_running_stats()


def _norm_replaced(m: Advancing, step: int) -> None:
    if step == 5:
        m.norm = nn.Identity()


def _stride_changed(m: Advancing, step: int) -> None:
    m.body.stride = (1 + step % 2,) * 2


def _layer_wrapped(m: Advancing, step: int) -> None:
    if step == 5:
        m.norm = nn.Sequential(m.norm, nn.Dropout(0.2))


def _forward_replaced(m: Advancing, step: int) -> None:
    if step == 5:
        inner = m.norm.forward
        m.norm.forward = lambda x: 0.5 * inner(x)


ADVANCES: dict[str, Callable[[Any, int], None]] = {
    "scale_changed": _scaled,
    "activation_changed": _activation_changed,
    "thawed": _thawed,
    "norm_frozen_later": _norm_frozen,
    "norm_options_changed": _norm_changed,
    "norm_reset": _norm_reset,
    "norm_replaced": _norm_replaced,
    "norm_wrapped": _layer_wrapped,
    "norm_forward_replaced": _forward_replaced,
    "stride_changed": _stride_changed,
}
for name, advance in ADVANCES.items():
    net(name)(partial(Advancing, advance))
