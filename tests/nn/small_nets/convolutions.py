"""Convolutions of every geometry, and what pads, slices and resizes images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import Apply, conv, framed, head, unit
from small_nets.registry import net


def _with_norm(**options: Any) -> nn.Module:
    return framed(unit(**options), conv(**options), nn.BatchNorm2d(8))


GEOMETRIES: dict[str, dict[str, Any]] = {
    "valid_padding": {"padding": "valid"},
    "same_padding": {"padding": "same"},
    "same_padding_even": {"size": 4, "padding": "same"},
    "same_padding_dilated": {"padding": "same", "dilation": 2},
    "reflected": {"padding_mode": "reflect"},
    "circular": {"padding_mode": "circular"},
    "replicated": {"padding_mode": "replicate", "padding": 2, "stride": 2},
    "reflected_same": {"padding_mode": "reflect", "padding": "same", "size": 4},
    "even_kernel": {"size": 2, "padding": 0},
    "stride_above_kernel": {"size": 1, "padding": 0, "stride": 2},
    "stride_three": {"size": 2, "padding": 1, "stride": 3},
    "uneven_kernel": {"size": (1, 3)},
    "uneven_stride": {"stride": (1, 2)},
    "wide_padding": {"padding": 3},
    "pointwise": {"size": 1, "padding": 0},
    "pointwise_padded": {"size": 1, "padding": 1},
    "grouped": {"groups": 4},
    "depthwise": {"groups": 8},
    "whole_image": {"size": 5, "padding": 0},
}
for name, options in GEOMETRIES.items():
    net(f"conv_{name}")(partial(_with_norm, **options))
net("conv_depthwise_multiplied")(lambda: framed(unit(8, 16, groups=8), unit(16, 8, groups=4)))
net("conv_to_one_channel")(lambda: framed(conv(8, 1), nn.BatchNorm2d(1), nn.ReLU(), unit(1)))
net("conv_to_one_pixel")(
    lambda: nn.Sequential(unit(3), nn.Conv2d(8, 8, 12), nn.BatchNorm2d(8), nn.ReLU(), head())
)
net("chain_of_convs")(lambda: nn.Sequential(conv(3), conv(bias=True), conv(), head()))
net("chain_of_units")(lambda: nn.Sequential(unit(3), unit(), unit(), unit(), head()))
net("chain_without_activations")(
    lambda: nn.Sequential(conv(3), nn.BatchNorm2d(8), conv(), nn.BatchNorm2d(8), head())
)
net("images_of_odd_size", (8, 3, 7, 9))(lambda: framed(unit(stride=2), unit()))
net("a_single_image", (1, 3, 12, 12))(lambda: framed(unit(), conv()))
net("many_small_images", (33, 3, 5, 5))(lambda: framed(unit(), conv()))
net("conv_before_norm_in_one_dimension")(
    lambda: framed(conv(), nn.Flatten(2), nn.BatchNorm1d(8), nn.Unflatten(2, (12, 12)), conv())
)


def _flipped_and_averaged(x: Tensor) -> Tensor:
    return 0.5 * (x + x.flip(-1))


def _quarters(x: Tensor) -> Tensor:
    return torch.cat(
        [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1
    )[:, ::4]


def _windows(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    x = (x - x.mean(1, keepdim=True)).view(b, h // 4, w // 4, 4, 4, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def _pixel_set(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0, 0] = 1.0
    return x


def _sampled(x: Tensor) -> Tensor:
    theta = torch.tensor([[0.8, 0.1, 0.05], [-0.1, 0.9, -0.03]], dtype=x.dtype)
    grid = F.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "pad_zeros": lambda x: F.pad(x, (1, 0, 0, 2)),
    "pad_value": lambda x: F.pad(x, (1, 1), value=0.5),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, [1, 2, 0, 1], "replicate"),
    "pad_circular": lambda x: F.pad(x, (2, 0, 1, 1), mode="circular"),
    "pad_negative": lambda x: F.pad(x, (-1, -2, 1, 0)),
    "pad_and_cut_channels": lambda x: F.pad(x, (0, 0, 0, 0, 2, 2))[:, 1:9],
    "pad_images": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[1:],
    "slice_pixels": lambda x: x[:, :, 1:-1, ::2],
    "slice_channels_apart": lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1),
    "slice_images": lambda x: torch.cat([x[4:], x[:4]]),
    "ellipsis": lambda x: x[..., 2:, 2:],
    "narrow": lambda x: x.narrow(2, 1, 8),
    "index_of_channels": lambda x: x[:, [3, 1, 2, 0, 7, 6, 5, 4]],
    "index_select": lambda x: torch.index_select(x, 1, torch.arange(7, -1, -1)),
    "index_of_images": lambda x: x[torch.arange(x.shape[0]).flip(0)],
    "none_index": lambda x: x[:, None].squeeze(1),
    "flip": _flipped_and_averaged,
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "roll": lambda x: torch.roll(x, shifts=(-2, 1), dims=(2, 3)),
    "transpose": lambda x: x.transpose(2, 3),
    "matrix_transpose": lambda x: x.mT,
    "quarters": _quarters,
    "windows": _windows,
    "pixel_set": _pixel_set,
    "grid_sample": _sampled,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2)[:, :8],
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "repeat": lambda x: x[:, :1].repeat(1, 8, 1, 1),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 8, -1, -1),
    "interpolate_bilinear": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "interpolate_bicubic": lambda x: F.interpolate(x, (7, 9), mode="bicubic", align_corners=True),
    "interpolate_area": lambda x: F.interpolate(x, size=5, mode="area"),
    "unfold": lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2),
    "tensor_unfold": lambda x: x.unfold(2, 3, 3).mean(-1),
    "view_flat": lambda x: x.view(x.size(0), -1).view(-1, 8, 12, 12),
    "view_images_merged": lambda x: x.view(-1, 12, 12).softmax(0).view(x.shape),
    "reshape": lambda x: x.reshape(4, 2, 8, 12, 12).flatten(0, 1),
    "permute_there_and_back": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "unbind": lambda x: torch.stack([one * (1 + i) for i, one in enumerate(x.unbind(1))], 1),
    "cumsum": lambda x: x.cumsum(dim=1),
    "sort": lambda x: x.sort(dim=1, descending=True).values,
    "topk": lambda x: x.topk(8, dim=1)[0],
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x)[..., None].expand(-1, -1, -1, 3) / 9,
    "gram": lambda x: (lambda f: f.bmm(f.transpose(1, 2)) / 144)(x.flatten(2))[..., None],
    "fft": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), norm="ortho"),
    "blurred": lambda x: F.conv2d(x, torch.ones(8, 1, 3, 3, dtype=x.dtype) / 9, groups=8),
    "unbatched_images": lambda x: torch.stack([image.relu() for image in x]),
}
for name, change in CHANGES.items():
    net(name)(partial(lambda change: framed(conv(), Apply(change), unit(), conv()), change))


@net("unbatched_convolutions")
class Unbatched(nn.Module):
    """Convolutions of single images [3, height, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.norm, self.head = nn.BatchNorm2d(8), head()

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.stack([self.second(torch.relu(self.first(image))) for image in x])
        return self.head(self.norm(maps))


@net("video")
class Video(nn.Module):
    """Images of a clip, folded into the batch and out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.linear = nn.Sequential(unit(1), unit()), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames = x.shape[:2]
        y = self.features(x.reshape(batch * frames, 1, *x.shape[2:]))
        return self.linear(y.mean((-2, -1)).view(batch, frames, -1)).mean(1)
