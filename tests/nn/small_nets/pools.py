"""Pooling of all kinds, and every spelling of the mean over an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import Apply, conv, framed, head, unit
from small_nets.registry import net

POOLS: dict[str, Callable[[], nn.Module]] = {
    "max_pool": lambda: nn.MaxPool2d(2),
    "max_pool_overlapping": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "max_pool_apart": lambda: nn.MaxPool2d(2, stride=3),
    "max_pool_ceiling": lambda: nn.MaxPool2d(5, stride=2, ceil_mode=True),
    "max_pool_dilated": lambda: nn.MaxPool2d(2, stride=1, dilation=2),
    "max_pool_uneven": lambda: nn.MaxPool2d((2, 3), (1, 2)),
    "average_pool": lambda: nn.AvgPool2d(2),
    "average_pool_padded": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average_pool_ceiling": lambda: nn.AvgPool2d(5, stride=3, ceil_mode=True),
    "average_pool_divided": lambda: nn.AvgPool2d(2, divisor_override=3),
    "adaptive_average": lambda: nn.AdaptiveAvgPool2d((3, 5)),
    "adaptive_average_rows": lambda: nn.AdaptiveAvgPool2d((None, 4)),
    "adaptive_max": lambda: nn.AdaptiveMaxPool2d(5),
    "power_pool": lambda: nn.LPPool2d(2, 2),
    "fractional_max_pool": lambda: nn.FractionalMaxPool2d(2, output_size=5),
    "functional_max_pool": lambda: Apply(lambda x: F.max_pool2d(x, 2)),
    "functional_max_pool_named": lambda: Apply(
        lambda x: F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    ),
    "functional_max_pool_indices": lambda: Apply(
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0]
    ),
    "functional_average_pool": lambda: Apply(lambda x: F.avg_pool2d(x, 3, 1, padding=1)),
    "functional_adaptive_max": lambda: Apply(lambda x: F.adaptive_max_pool2d(x, (4, 4))),
    "identity": nn.Identity,
}


def _pooled(behind: str, pool: Callable[[], nn.Module]) -> nn.Module:
    parts = {"unit": [unit()], "norm": [conv(), nn.BatchNorm2d(8)], "conv": [conv(bias=True)]}
    return framed(*parts[behind], pool(), unit(), conv())


for name, pool in POOLS.items():
    net(name)(partial(_pooled, "unit", pool))
for behind in ("norm", "conv"):
    for name in ("max_pool", "max_pool_overlapping", "average_pool"):
        net(f"{name}_behind_{behind}")(partial(_pooled, behind, POOLS[name]))


def _mean_by_size(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, x.shape[-2:]).view(x.size(0), -1)


def _mean_by_view(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1], -1).mean(dim=-1)


def _generalised(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3), (x.size(-2), x.size(-1))).pow(1 / 3).flatten(1)


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean_of_pixels": lambda x: x.mean((2, 3)),
    "mean_of_last": lambda x: x.mean([-1, -2]),
    "mean_of_named": lambda x: x.mean(dim=(2, 3)),
    "mean_kept": lambda x: x.mean((2, 3), keepdim=True)[:, :, 0, 0],
    "mean_kept_flat": lambda x: torch.mean(x, dim=[2, 3], keepdim=True).flatten(1),
    "mean_of_mean": lambda x: x.mean(3).mean(2),
    "mean_of_flat": lambda x: x.flatten(2).mean(2),
    "mean_by_view": _mean_by_view,
    "mean_by_size": _mean_by_size,
    "mean_by_adaptive_squeezed": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "mean_by_adaptive_view": lambda x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1),
    "mean_by_sum": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "mean_of_reduced": lambda x: torch.einsum("bchw->bc", x) / x[0, 0].numel(),
    "largest": lambda x: x.amax((2, 3)),
    "largest_of_flat": lambda x: x.flatten(2).max(dim=-1).values,
    "largest_of_largest": lambda x: x.max(3)[0].max(2)[0],
    "mean_and_largest": lambda x: x.mean((2, 3)) + x.amax(dim=(2, 3)),
    "deviation": lambda x: x.std((2, 3)),
    "deviation_and_mean": lambda x: torch.add(*torch.var_mean(x, (2, 3))),
    "generalised_mean": _generalised,
    "logsumexp": lambda x: x.flatten(2).logsumexp(2),
    "norm_of_pixels": lambda x: x.norm(dim=(2, 3)),
    "middle_pixel": lambda x: x[:, :, 6, 6],
    "softmax_of_pixels": lambda x: (x.flatten(2).softmax(-1) * x.flatten(2)).sum(-1),
}


def _meaned(mean: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(
        unit(3), conv(), nn.BatchNorm2d(8), Apply(mean), nn.ReLU(), nn.Linear(8, 5)
    )


for name, mean in MEANS.items():
    net(name)(partial(_meaned, mean))
net("all_pixels")(
    lambda: nn.Sequential(unit(3), unit(stride=2), nn.Flatten(), nn.Linear(8 * 36, 5))
)
net("mean_behind_conv")(
    lambda: nn.Sequential(unit(3), conv(bias=True), Apply(lambda x: x.mean((2, 3))))
)


@net("unpooled")
class Unpooled(nn.Module):
    """Largest pixels put back to where they were, as in SegNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.last = unit(3), unit(), conv(8, 2)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x, where = self.pool(self.stem(x))
        return self.last(self.unpool(self.middle(x), where))


@net("spatial_pyramid_pooling")
class PyramidPooling(nn.Module):
    """Means of grids of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.linear = nn.Sequential(unit(3), conv()), nn.Linear(8 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.linear(
            torch.cat([F.adaptive_avg_pool2d(x, size).flatten(1) for size in (1, 2, 3)], 1)
        )


@net("pooled_both_ways")
class PooledBothWays(nn.Module):
    """A norm that two kinds of pooling read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.last, self.head = conv(3), nn.BatchNorm2d(8), unit(16), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(self.last(torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1)))
