"""Batches of normalised images, made on the device from uint8.

All that is random about an epoch is drawn on the CPU before it begins and moved to the device in
one copy. After that the host only slices: no batch makes it wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gemkern.data.dataset import Augment, Split
from gemkern.data.randomness import Stream, random_numbers
from gemkern.errors import GemkernError


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augment,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over one epoch of training: every image once, shuffled, cropped and flipped.

    Order, crops and flips are a function of `seed` and `epoch` alone: the same on every device,
    whatever else draws random numbers. A last short batch is dropped.

    Args:
        mean, std: per channel, of pixels scaled to [0, 1]; applied after the black padding.

    Yields:
        images float32 [batch_size, C, H, W] and labels int64 [batch_size], on the split's device.

    Raises:
        GemkernError: `batch_size` is below 1 or above the size of the split, or a negative seed.
    """
    if not 1 <= batch_size <= len(split):
        raise GemkernError(
            f"batch_size is {batch_size}: give at least 1 and at most {len(split)}, "
            "the number of training images"
        )
    plan = _epoch_plan(len(split), augment, seed, epoch).to(split.images.device)
    return _training_batches(
        split, batch_size, plan, augment.crop_padding, _normaliser(split, mean, std)
    )


def eval_batches(
    split: Split, batch_size: int, mean: Sequence[float], std: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over `split` in its own order, as it is; the last batch may be short.

    Yields:
        images float32 [B, C, H, W] and labels int64 [B], on the split's device.

    Raises:
        GemkernError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise GemkernError(f"batch_size is {batch_size}: give at least 1")
    normalise = _normaliser(split, mean, std)
    image_batches = map(normalise, split.images.split(batch_size))
    return zip(image_batches, split.labels.split(batch_size), strict=True)


def _epoch_plan(size: int, augment: Augment, seed: int, epoch: int) -> Tensor:
    """Draw an epoch: int64 [4, size], rows image index, window top, window left, flipped (0, 1)."""
    numbers = random_numbers(Stream.EPOCH, seed, epoch)
    window_places = 2 * augment.crop_padding + 1
    plan = (
        numbers.permutation(size),
        numbers.integers(window_places, size=size),
        numbers.integers(window_places, size=size),
        numbers.integers(1 + augment.flip, size=size),
    )
    return torch.from_numpy(np.stack(plan))


def _training_batches(
    split: Split,
    batch_size: int,
    plan: Tensor,
    padding: int,
    normalise: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split) - batch_size + 1, batch_size):
        indices, top, left, flipped = plan[:, start : start + batch_size]
        images = crop_and_flip(split.images[indices], padding, top, left, flipped)
        yield normalise(images), split.labels[indices]


def crop_and_flip(
    images: Tensor, padding: int, top: Tensor, left: Tensor, flipped: Tensor
) -> Tensor:
    """Pad `images` with zeros, cut each one's window, then mirror it where `flipped`.

    One gather moves every pixel of the batch: the flip is a reversal of the columns it reads.

    Args:
        images: [B, C, H, W].
        padding: pixels on every side.
        top, left: int64 [B], where the window begins in the padded image, 0 to 2 * padding.
        flipped: int64 [B], 1 to mirror the window left to right, else 0.

    Returns:
        [B, C, H, W] in the dtype of `images`.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4).flatten(2)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(flipped[:, None] == 1, width - 1 - columns, columns)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    return padded.gather(2, pixels.view(batch, 1, -1).expand(-1, channels, -1)).view_as(images)


def _normaliser(
    split: Split, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Tensor], Tensor]:
    """Return (pixels / 255 - mean) / std as one product and one sum per pixel."""
    center, spread = (torch.tensor(per_channel, dtype=torch.float64) for per_channel in (mean, std))
    scale, shift = (
        constant.to(split.images.device, torch.float32).view(-1, 1, 1)
        for constant in (1 / (255 * spread), -center / spread)
    )
    return lambda images: images * scale + shift
