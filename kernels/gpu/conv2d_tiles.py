"""Tiles of masked convolutions: what kernels load, and how large a part one program works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.launching import chip_of
from torch import Tensor

# Where a score is rounded up: `gemkern.kernels.gpu.threshold.TAU`, as kernels read it.
TAU = tl.constexpr(0.5)
# Programs that keep a large GPU busy (an H100 has 132 multiprocessors).
ENOUGH_PROGRAMS = 128
# With fewer channels than the least tl.dot takes, taps and channels are flattened to one index.
LEAST_CHANNELS = 16


@triton.jit
def along_pixels(vector, PLANAR: tl.constexpr):
    """Spread a vector over the pixels of a tile: its rows, or its columns if PLANAR."""
    return vector[None, :] if PLANAR else vector[:, None]


@triton.jit
def along_channels(vector, PLANAR: tl.constexpr):
    """Spread a vector over the channels of a tile: its columns, or its rows if PLANAR."""
    return vector[:, None] if PLANAR else vector[None, :]


@triton.jit
def pixel_pointers(image_ptr, images, at_h, at_w, stride_n, stride_h, stride_w):
    """Return where pixels begin, in the padding too, where nothing may be loaded."""
    offsets = at_h.to(tl.int64) * stride_h + at_w.to(tl.int64) * stride_w
    return image_ptr + (images.to(tl.int64) * stride_n + offsets)


@triton.jit
def image_tile(pointers, offsets, at_h, at_w, inside, HEIGHT, WIDTH):
    """Load images at `pointers` to pixels plus `offsets`, 0 in the padding or not `inside`.

    All but the sizes are spread over the pixels or the channels of the tile.
    """
    inside = inside & (at_h >= 0) & (at_h < HEIGHT) & (at_w >= 0) & (at_w < WIDTH)
    return tl.load(pointers + offsets, mask=inside, other=0)


@triton.jit
def effective_tile(
    weight_ptr, scores_ptr, active_ptr, start, offsets, inside,
    SCORED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Load weights where the mask is on and 0 elsewhere, in DTYPE."""
    on = tl.load(active_ptr + start + offsets, mask=inside, other=0) != 0
    if SCORED:
        on = on & (tl.load(scores_ptr + start + offsets, mask=inside, other=0) >= TAU)
    weight = tl.load(weight_ptr + start + offsets, mask=inside, other=0)
    return tl.where(on, weight, 0).to(DTYPE)


@dataclass(frozen=True)
class Tile:
    """What a program works on: `m` rows and `n` columns, `k` terms of each sum at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    @property
    def constants(self) -> dict[str, int]:
        return {"BLOCK_M": self.m, "BLOCK_N": self.n, "BLOCK_K": self.k}

    def count(self, rows: int, columns: int) -> int:
        """How many such tiles cover a matrix."""
        return triton.cdiv(rows, self.m) * triton.cdiv(columns, self.n)


@dataclass(frozen=True)
class Tiles:
    """The tiles of a kernel, from large to small; `flat` where taps and channels are one index."""

    tiles: tuple[Tile, ...]
    flat: Tile

    def choose(self, rows: int, columns: int, copies: int, flat: bool) -> Tile:
        """Return the largest tile that wastes no columns and leaves enough programs."""
        if flat:
            return self.flat
        fitting = [tile for tile in self.tiles if tile.n < 2 * columns] or [self.tiles[-1]]
        busy = (tile for tile in fitting if tile.count(rows, columns) * copies >= ENOUGH_PROGRAMS)
        return next(busy, fitting[-1])

    def all(self) -> Iterator[tuple[Tile, bool]]:
        """Yield each tile that can be chosen, and whether it is flat."""
        yield from ((tile, False) for tile in self.tiles)
        yield self.flat, True


def precision(tensor: Tensor) -> str:
    """Return what tl.dot does to float32: "tf32" where PyTorch's convolutions would, or "ieee"."""
    rounded = tensor.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return "tf32" if rounded and chip_of(tensor.device).rounds else "ieee"


def is_planar(images: Tensor) -> bool:
    """Return whether neighbours in memory are pixels and not channels."""
    return images.stride(3) <= images.stride(1) or images.shape[1] == 1


def images_like(size: Sequence[int], like: Tensor) -> Tensor:
    """Return a tensor of `size` with no values, in the memory format of `like`."""
    only_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if only_last else torch.contiguous_format
    return torch.empty(tuple(size), dtype=like.dtype, device=like.device, memory_format=layout)
