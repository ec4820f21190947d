"""Images with labels, and how training images vary."""

from __future__ import annotations

from dataclasses import dataclass

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
