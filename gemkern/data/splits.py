"""Dividing labelled images so that every class gets its share."""

from __future__ import annotations

import numpy as np

from gemkern.data.split import Split
from gemkern.errors import GemkernError
from gemkern.numbers import shown


def class_ranks(labels: np.ndarray, classes: int, numbers: np.random.Generator) -> np.ndarray:
    """Number the images of each class 0, 1, 2 ... in random order; int64 [N]."""
    order = numbers.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=classes)
    first_of_class = np.cumsum(counts) - counts
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - first_of_class[labels[by_class]]
    return ranks


def hold_out(
    split: Split, classes: int, fraction: float, numbers: np.random.Generator
) -> tuple[Split, Split]:
    """Divide `split` into (the rest, the held-out images), both in the order of `split`.

    Of each class the nearest whole number to `fraction` of its images is held out, at least one.

    Raises:
        GemkernError: `fraction` is not in (0, 1), or a class would have no image left.
    """
    if not 0 < fraction < 1:
        raise GemkernError(f"validation is {fraction}: give a fraction between 0 and 1, as 0.1")
    labels = split.labels.numpy()
    counts = np.bincount(labels, minlength=classes)
    quota = np.maximum(1, np.rint(fraction * counts))
    if (counts <= quota).any():
        short = int(np.argmax(counts <= quota))
        raise GemkernError(
            f"class {short} has too few training images ({counts[short]}) to hold out {fraction} "
            "of them: give at least 2 images of every class or hold out a smaller fraction"
        )
    held_out = class_ranks(labels, classes, numbers) < quota[labels]
    return split.take(np.flatnonzero(~held_out)), split.take(np.flatnonzero(held_out))


def balanced_subset(split: Split, classes: int, size: int, numbers: np.random.Generator) -> Split:
    """Return `size` random images in the order of `split`, as evenly over the classes as they go.

    Raises:
        GemkernError: fewer images than classes, or more than there are.
    """
    if not classes <= size <= len(split):
        raise GemkernError(
            f"train_limit is {shown(size)}: give at least {classes}, one image of every class, "
            f"and at most {len(split)}, the images left for training"
        )
    ranks = class_ranks(split.labels.numpy(), classes, numbers)
    return split.take(np.sort(np.argsort(ranks, kind="stable")[:size]))
