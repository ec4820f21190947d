"""Fashion-MNIST at half its resolution: a quarter of the arithmetic of a step."""

from __future__ import annotations

from dataclasses import replace

from torch.nn import functional as F

from gemkern.data import Augment, Dataset, Split, load


def halved(data_dir: str, train_limit: int | None = None) -> Dataset:
    """Return Fashion-MNIST with each 2x2 pixels averaged: images of 14x14, split as at 28x28.

    Raises:
        GemkernError: as `gemkern.data.load`.
    """
    whole = load("fashion-mnist", data_dir, train_limit=train_limit)
    splits = {name: _halved(getattr(whole, name)) for name in ("train", "validation", "test")}
    return replace(whole, name="fashion-mnist-14x14", augment=Augment(1, flip=True), **splits)


def _halved(split: Split) -> Split:
    return replace(split, images=F.avg_pool2d(split.images.float(), 2).round().byte())
