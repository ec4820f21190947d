"""Batches of normalised images, made on the device from uint8.

All that is random about an epoch is drawn on the CPU before it begins and moved to the device in
one copy. After that the host only slices: no batch makes it wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gemkern.data.randomness import Stream, random_numbers
from gemkern.data.split import Augment, Split
from gemkern.errors import GemkernError


class Share(NamedTuple):
    """Which part of each batch is taken here: that of rank `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1


WHOLE = Share()


class Batches(Protocol):
    """The training batches of one epoch after another."""

    @property
    def device(self) -> torch.device: ...

    @property
    def capturable(self) -> bool:
        """Whether a captured graph of `take` makes the next batch at each replay."""

    def __len__(self) -> int:
        """How many batches there are in an epoch."""

    def begin(self, epoch: int, step: int = 0) -> None:
        """Go to the batch of `step` of `epoch`; what comes is a function of seed and epoch."""

    def take(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of the next batch."""


class TrainingBatches:
    """The training batches of one epoch after another, made by the device from fixed tensors.

    Every image once an epoch, shuffled, cropped and flipped. Order, crops and flips are a function
    of `seed` and epoch alone: the same on every device, whatever else draws random numbers. A last
    short batch is dropped; `len()` is the number of batches an epoch, which ends after `most`.

    Epochs and batches differ in what the plan of the epoch and the place in it hold, not in where
    they lie: a captured graph of `take` makes the next batch at each replay.

    Args:
        mean, std: per channel, of pixels scaled to [0, 1]; applied after the black padding.
        share: which part of each batch is taken.
        most: batches after which an epoch ends, with images left over; None for all.

    Raises:
        GemkernError: `batch_size` is below 1 or above the size of the split, or cannot be shared
            equally, or `most` is below 1.
    """

    capturable = True

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment,
        share: Share = WHOLE,
        most: int | None = None,
    ) -> None:
        if most is not None and most < 1:
            raise GemkernError(
                f"an epoch cannot have {most} steps: give --set epoch_steps=1 or more"
            )
        if not 1 <= batch_size <= len(split):
            raise GemkernError(
                f"batch_size is {batch_size}: give at least 1 and at most {len(split)}, "
                "the number of training images"
            )
        if batch_size % share.ranks:
            raise GemkernError(
                f"a batch of {batch_size} images cannot be shared by {share.ranks} ranks: give a "
                "multiple of that with --set batch_size=N"
            )
        self._split, self._batch_size, self._seed, self._augment = split, batch_size, seed, augment
        self._normalise = _normaliser(split, mean, std)
        self._plan = torch.empty((4, len(split)), dtype=torch.int64, device=self.device)
        whole = len(split) // batch_size
        self._batches = whole if most is None else min(most, whole)
        own = batch_size // share.ranks
        self._first = own * share.rank + torch.arange(own, device=self.device)
        # Columns of the plan that the next batch takes.
        self._next = self._first.clone()

    def __len__(self) -> int:
        return self._batches

    @property
    def device(self) -> torch.device:
        return self._split.images.device

    def begin(self, epoch: int, step: int = 0) -> None:
        """Go to the batch of `step` of `epoch`.

        Raises:
            GemkernError: the seed or the epoch is negative.
        """
        self._plan.copy_(_epoch_plan(len(self._split), self._augment, self._seed, epoch))
        self._next.copy_(self._first + step * self._batch_size)

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the next batch of the epoch, which must not be over: `len()` times an epoch.

        Returns:
            images float32 [B, C, H, W] and labels int64 [B], on the split's device; there channels
            last if that is CUDA. B is `batch_size`, or the share of it.
        """
        indices, top, left, flipped = self._plan.index_select(1, self._next)
        self._next += self._batch_size
        images = self._split.images[indices]
        images = crop_and_flip(images, self._augment.crop_padding, top, left, flipped)
        return self._normalise(images), self._split.labels[indices]


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
    """Iterate over one epoch of `TrainingBatches`.

    Yields:
        images float32 [batch_size, C, H, W] and labels int64 [batch_size], on the split's device.

    Raises:
        GemkernError: `batch_size` is below 1 or above the size of the split, or a negative seed.
    """
    source = TrainingBatches(split, batch_size, seed=seed, mean=mean, std=std, augment=augment)
    source.begin(epoch)
    return (source.take() for _ in range(len(source)))


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
    device = split.images.device
    center, spread = (torch.tensor(per_channel, dtype=torch.float64) for per_channel in (mean, std))
    scale, shift = (
        constant.to(device, torch.float32).view(-1, 1, 1)
        for constant in (1 / (255 * spread), -center / spread)
    )
    # cuDNN's layout; taken on while a pixel is still one byte.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    return lambda images: images.contiguous(memory_format=layout) * scale + shift
