"""Real images by name, as tensors that live on the device: `load`, then `batches` every epoch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gemkern.data import caltech101, cifar, digits, folder, idx, tiny_imagenet
from gemkern.data.batches import Batches, Share, TrainingBatches, batches, eval_batches
from gemkern.data.dataset import Dataset
from gemkern.data.files import StrPath
from gemkern.data.loaders import Loaders
from gemkern.data.randomness import Stream, random_numbers
from gemkern.data.split import Augment, Source, Split
from gemkern.data.splits import balanced_subset, hold_out
from gemkern.data.statistics import channel_statistics
from gemkern.errors import GemkernError

__all__ = [
    "NAMES",
    "Augment",
    "Batches",
    "Data",
    "Dataset",
    "Loaders",
    "Share",
    "Split",
    "TrainingBatches",
    "batches",
    "eval_batches",
    "load",
]

Data = Dataset | Loaders


class _Format(NamedTuple):
    """How a data set is read; `options` are those of `load` that its reader takes."""

    read: Callable[..., Source]
    augment: Augment
    options: tuple[str, ...] = ()


_FORMATS = {
    "digits": _Format(digits.read, Augment(crop_padding=1, flip=False)),
    "mnist": _Format(partial(idx.read, "mnist"), Augment(crop_padding=2, flip=False)),
    "fashion-mnist": _Format(partial(idx.read, "fashion-mnist"), Augment(2, flip=True)),
    "cifar10": _Format(partial(cifar.read, "cifar10"), Augment(crop_padding=4, flip=True)),
    "cifar100": _Format(partial(cifar.read, "cifar100"), Augment(crop_padding=4, flip=True)),
    "folder": _Format(folder.read, Augment(crop_padding=4, flip=True), ("resize", "test_folder")),
    # Rare Gems' code turns these by up to 20 degrees in place of the crop.
    "tiny-imagenet": _Format(tiny_imagenet.read, Augment(crop_padding=4, flip=True)),
    # And leaves these as they are.
    "caltech101": _Format(caltech101.read, Augment(), ("resize",)),
}

NAMES = tuple(_FORMATS)


def load(
    name: str,
    data_dir: StrPath | None = None,
    *,
    train_limit: int | None = None,
    at_most: int | None = None,
    resize: int | None = None,
    test_folder: str | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Read the data set `name` and split it; everything stays uint8 on the CPU until `.to(device)`.

    The test split is the official one whatever the seed ("tiny-imagenet": what is published for
    validation; "digits", which has none, holds a fixed fifth of every class out, "caltech101" up to
    50 images: see its reader). The validation split is held out of the official training images,
    and `train_limit` chooses among what remains.

    Args:
        name: one of `NAMES`.
        data_dir: the folder that holds the files as they are published, or (CIFAR, TinyImageNet,
            Caltech-101) the parent of that folder; needed by every name but "digits".
        train_limit: keep this many training images, the same number of every class as far as the
            classes allow, and the same share of the validation images; None keeps all. A smaller
            limit is a subset of a larger one.
        at_most: the same limit, where there are more images and no `train_limit` is given.
        resize: pixels a side to which the images of "caltech101" and "folder" are resized; None
            for 224 of "caltech101", and for the size that all images of a "folder" have.
        test_folder: the folder of the test images of "folder", beside train; None for "test".
        validation: the fraction of every class's training images held out, in (0, 1).
        seed: chooses the validation images and the limited training images.

    Raises:
        GemkernError: unknown name, folder or files missing or damaged, a `resize` or `test_folder`
            of what has none, a fraction or limit that leaves a class without images, a channel of
            one constant value, a negative seed, or more images than memory holds.
    """
    if name not in _FORMATS:
        raise GemkernError(f"there is no data set {name!r}: choose one of {', '.join(NAMES)}")
    read, augment, options = _FORMATS[name]
    asked = {"resize": resize, "test_folder": test_folder}
    given = {option: value for option, value in asked.items() if value is not None}
    for option, value in given.items():
        if option not in options:
            takers = " and ".join(known for known, one in _FORMATS.items() if option in one.options)
            raise GemkernError(
                f"{name} is read as it is published: leave {option}={value} out, which is for "
                f"{takers}"
            )
    numbers = random_numbers(Stream.SPLIT, seed)
    try:
        source = read(data_dir, **given)
    except OSError as error:
        raise GemkernError(
            f"{error.filename or data_dir} cannot be read ({error.strerror or error}): "
            "check that it is what its name says and that you may read it"
        ) from error
    except MemoryError as error:
        raise GemkernError(
            f"the images of {name} do not fit into memory ({error}): give fewer, or smaller ones"
        ) from error
    train, held_out = hold_out(source.train, source.classes, validation, numbers)
    if train_limit is None and at_most is not None and at_most < len(train):
        train_limit = at_most
    if train_limit is not None:
        share = min(train_limit, len(train)) / len(train)
        train = balanced_subset(train, source.classes, train_limit, numbers)
        kept = max(source.classes, round(share * len(held_out)))
        held_out = balanced_subset(held_out, source.classes, kept, numbers)
    mean, std = channel_statistics(train.images)
    return Dataset(name, source.classes, train, held_out, source.test, mean, std, augment)
