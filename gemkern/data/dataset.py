"""Images with labels, and the splits of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gemkern.errors import GemkernError


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: uint8 [N, C, H, W], 0 to 255.
        labels: int64 [N], 0 to classes - 1.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> Split:
        """Copy uint8 images [N, C, H, W] and integer labels [N] into tensors."""
        return cls(
            torch.from_numpy(np.array(images, np.uint8, order="C")),
            torch.from_numpy(np.array(labels, np.int64)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return a copy of the images at `indices`, in that order."""
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device | str) -> Split:
        """Return the split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """What a reader finds in the files: the official training and test images."""

    train: Split
    test: Split
    classes: int


@dataclass(frozen=True)
class Augment:
    """How training images vary from epoch to epoch.

    Attributes:
        crop_padding: pixels of black added on every side before an H x W window is cut at random.
        flip: whether half of the images, chosen at random, are mirrored left to right.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise GemkernError(f"crop_padding is {self.crop_padding}: give 0 pixels or more")


@dataclass(frozen=True)
class Dataset:
    """A data set, split and ready to train on.

    Attributes:
        mean, std: per channel, of the training split with pixels scaled to [0, 1].
        augment: what `batches` does to the training images.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment

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
