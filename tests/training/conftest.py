"""A data set and a network small enough for a test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gemkern.data import Augment, Dataset, Split


def make_split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 80, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 150
    return Split(images, labels)


@pytest.fixture
def stripes() -> Dataset:
    """Three classes told apart by which third of the image is bright."""
    return Dataset(
        name="stripes",
        classes=3,
        train=make_split(96, 0),
        validation=make_split(30, 1),
        test=make_split(30, 2),
        mean=(0.4,),
        std=(0.3,),
        augment=Augment(crop_padding=0, flip=True),
    )


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 3),
    )
