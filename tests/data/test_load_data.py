"""`load`: what is held out, what is kept, what is measured, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gemkern.data import NAMES, Augment, Dataset, Split, load
from gemkern.data.randomness import Stream, random_numbers
from gemkern.data.splits import balanced_subset, hold_out
from gemkern.data.statistics import channel_statistics
from gemkern.errors import GemkernError


def numbered(labels: list[int]) -> Split:
    """Images whose four pixels spell their own number, so that each can be recognised."""
    count = len(labels)
    images = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 1, 1, 4)
    return Split.from_arrays(images, np.array(labels))


def names_of(split: Split) -> list[int]:
    return split.images.numpy().copy().view("<u4").ravel().tolist()


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


MANY = st.lists(st.integers(2, 30), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(counts=MANY, fraction=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_hold_out_is_a_stratified_partition(counts: list[int], fraction: float, seed: int) -> None:
    labels = generator(seed).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    split = numbered(labels)
    rest, held_out = hold_out(split, len(counts), fraction, generator(seed))
    assert sorted(names_of(rest) + names_of(held_out)) == list(range(len(labels)))
    for part in (rest, held_out):
        assert names_of(part) == sorted(names_of(part))
        assert part.labels.tolist() == [labels[name] for name in names_of(part)]
    for label, count in enumerate(counts):
        assert held_out.labels.tolist().count(label) == max(1, round(fraction * count))


@settings(max_examples=40, deadline=None)
@given(counts=MANY, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_balanced_subset_is_as_even_as_the_classes_allow(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    size = len(counts) + round(share * (sum(counts) - len(counts)))
    subset = balanced_subset(numbered(labels), len(counts), size, generator(seed))
    names = names_of(subset)
    assert len(set(names)) == size
    assert names == sorted(names)
    assert subset.labels.tolist() == [labels[name] for name in names]
    taken = np.bincount(subset.labels, minlength=len(counts))
    for label, count in enumerate(counts):
        assert taken[label] == count or taken[label] >= taken.max() - 1


def test_a_smaller_limit_is_a_subset_of_a_larger_one() -> None:
    split = numbered([0, 1, 2] * 20)
    small, large = (set(names_of(balanced_subset(split, 3, k, generator()))) for k in (12, 31))
    assert small < large


def test_choices_depend_on_the_seed_alone() -> None:
    def digits(seed: int) -> Dataset:
        return load("digits", train_limit=300, seed=seed)

    one, again, other = digits(3), digits(3), digits(4)
    for half in ("train", "validation"):
        ours: Split = getattr(one, half)
        assert torch.equal(ours.images, getattr(again, half).images)
        assert torch.equal(ours.labels, getattr(again, half).labels)
        assert not torch.equal(ours.labels, getattr(other, half).labels)


def test_purposes_draw_numbers_of_their_own() -> None:
    drawn = {tuple(random_numbers(stream, seed=3).integers(1000, size=8)) for stream in Stream}
    assert len(drawn) == len(Stream)
    again = random_numbers(Stream.SPLIT, seed=3).integers(1000, size=8)
    assert tuple(again) in drawn


def test_load_uses_no_global_random_numbers() -> None:
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    load("digits", train_limit=100)
    assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_splits_are_disjoint_and_complete() -> None:
    dataset = load("digits", validation=0.2)
    sizes = [len(part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert sum(sizes) == 1797
    assert np.abs(np.bincount(dataset.validation.labels) - 28.75).max() < 1.25
    parts = (dataset.train, dataset.validation, dataset.test)
    images = {row.tobytes() for part in parts for row in part.images.numpy()}
    assert len(images) == 1797, "every digit of scikit-learn is different, so none is in two splits"


def images_of(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images.numpy()}


def test_a_limit_takes_the_same_share_of_training_and_validation() -> None:
    whole = load("digits", seed=1)
    share = 200 / len(whole.train)
    limited = load("digits", seed=1, train_limit=200)
    assert len(limited.train) == 200
    assert len(limited.validation) == round(share * len(whole.validation))
    assert images_of(limited.train) < images_of(whole.train)
    assert images_of(limited.validation) < images_of(whole.validation)
    assert torch.equal(limited.test.images, whole.test.images)


def test_a_small_limit_leaves_every_class_in_both_splits() -> None:
    limited = load("digits", seed=1, train_limit=50)
    assert np.bincount(limited.train.labels).tolist() == [5] * 10
    assert np.bincount(limited.validation.labels).tolist() == [1] * 10


def test_mean_and_std_are_those_of_the_training_split() -> None:
    dataset = load("digits", train_limit=40)
    scaled = dataset.train.images.numpy() / 255
    assert dataset.mean == pytest.approx((scaled.mean(),), rel=1e-14)
    assert dataset.std == pytest.approx((scaled.std(),), rel=1e-14)


def test_statistics_are_taken_per_channel() -> None:
    images = torch.from_numpy(generator().integers(0, 256, (6, 3, 4, 5), np.uint8))
    images[:, 1] //= 3
    mean, std = channel_statistics(images)
    scaled = images.numpy() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), rel=1e-14)
    assert std == pytest.approx(scaled.std((0, 2, 3)), rel=1e-14)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_a_constant_channel_is_refused(value: int) -> None:
    images = torch.from_numpy(generator().integers(0, 256, (6, 3, 4, 5), np.uint8))
    images[:, 2] = value
    with pytest.raises(GemkernError, match=f"channel 2 of the training images is {value} every"):
        channel_statistics(images)


def test_a_dataset_moves_as_a_whole() -> None:
    dataset = load("digits").to("meta")
    tensors: list[Tensor] = []
    for part in (dataset.train, dataset.validation, dataset.test):
        tensors += (part.images, part.labels)
    assert all(tensor.is_meta for tensor in tensors)
    assert dataset.image_shape == (1, 8, 8)


def test_names() -> None:
    assert NAMES[:6] == ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder")
    assert NAMES[6:] == ("tiny-imagenet", "caltech101")


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "name": (
        lambda: load("imagenet"),
        "no data set 'imagenet': choose one of digits, mnist, fashion-mnist, cifar10, cifar100,",
    ),
    "fraction 0": (lambda: load("digits", validation=0.0), "validation is 0.0: give a fraction"),
    "fraction 1": (lambda: load("digits", validation=1.0), "validation is 1.0: give a fraction"),
    "fraction NaN": (lambda: load("digits", validation=float("nan")), "validation is nan"),
    "nothing left": (
        lambda: load("digits", validation=0.999),
        "class 0 has too few training images .142. to hold",
    ),
    "limit small": (lambda: load("digits", train_limit=9), "train_limit is 9: give at least 10"),
    "limit large": (lambda: load("digits", train_limit=1296), "1296: .* at most 1295, the images"),
    "seed": (lambda: load("digits", seed=-1), "seed -1 and epoch 0: neither may be negative"),
    "padding": (lambda: Augment(crop_padding=-1), "crop_padding is -1: give 0 pixels or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    call, sentence = REFUSED[case]
    with pytest.raises(GemkernError, match=sentence):
        call()


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_folder_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match=f"the data set '{name}' needs data_dir, the folder"):
        load(name)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(GemkernError, match=f"data_dir {nowhere} is not a folder: "):
        load(name, nowhere)


def test_a_class_too_small_to_share() -> None:
    with pytest.raises(GemkernError, match=r"class 1 has too few training images \(1\)"):
        hold_out(numbered([0, 0, 1]), 2, 0.1, generator())
    with pytest.raises(GemkernError, match=r"class 2 has too few training images \(0\)"):
        hold_out(numbered([0, 0, 1, 1]), 3, 0.1, generator())


def test_what_the_system_refuses_to_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"")

    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(GemkernError, match=f"{path} cannot be read .*denied.*: check that"):
        load("mnist", tmp_path)


def test_at_most_so_many_images_are_no_limit_to_a_smaller_set() -> None:
    whole, limited = load("digits"), load("digits", train_limit=300)
    assert len(load("digits", at_most=8000).train) == len(whole.train)
    few = load("digits", at_most=300)
    assert torch.equal(few.train.images, limited.train.images)
    assert len(load("digits", at_most=300, train_limit=400).train) == 400
