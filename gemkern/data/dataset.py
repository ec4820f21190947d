"""A data set: its splits, and the batches that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gemkern.data.batches import WHOLE, Share, TrainingBatches, eval_batches
from gemkern.data.split import Augment, Split


@dataclass(frozen=True)
class Dataset:
    """A data set, split and ready to train on.

    Attributes:
        mean, std: per channel, of the training split with pixels scaled to [0, 1].
        augment: what `training` does to the training images.
        epoch_steps: steps after which an epoch of `training` ends; None for all its batches.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    epoch_steps: int | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with every split on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def training(self, batch_size: int, seed: int, share: Share = WHOLE) -> TrainingBatches:
        """Return the training batches, whose order is a function of `seed` and epoch."""
        return TrainingBatches(
            self.train,
            batch_size,
            seed=seed,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
            share=share,
            most=self.epoch_steps,
        )

    def evaluation(self, split: str, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the `split` "train", "validation" or "test" as it is."""
        chosen: Split = getattr(self, split)
        return eval_batches(chosen, batch_size, mean=self.mean, std=self.std)
