"""Batches against a loop over single images, exactly; and what their randomness depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gemkern.data import Augment, Split, TrainingBatches, batches, eval_batches
from gemkern.data.batches import crop_and_flip
from gemkern.errors import GemkernError

STILL = Augment(crop_padding=0, flip=False)
LIVELY = Augment(crop_padding=2, flip=True)


def make_split(count: int = 40, channels: int = 1, height: int = 6, width: int = 5) -> Split:
    """Random images; image i carries the label i."""
    shape = (count, channels, height, width)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Split.from_arrays(images, np.arange(count))


def epoch_of(
    split: Split, batch_size: int = 8, *, seed: int = 0, epoch: int = 0, augment: Augment = LIVELY
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in pixel units: mean 0 and std 1 / 255."""
    channels = split.images.shape[1]
    return batches(
        split,
        batch_size,
        seed=seed,
        epoch=epoch,
        mean=[0.0] * channels,
        std=[1 / 255] * channels,
        augment=augment,
    )


def joined(parts: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def slow_window(image: np.ndarray, padding: int, top: int, left: int, flipped: int) -> np.ndarray:
    channels, height, width = image.shape
    window = np.zeros_like(image)
    for channel in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = i + top - padding, j + left - padding
                if 0 <= row < height and 0 <= column < width:
                    place = width - 1 - j if flipped else j
                    window[channel, i, place] = image[channel, row, column]
    return window


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 4),
    seed=st.integers(0, 999),
)
def test_crop_and_flip_moves_pixels_as_the_loop_does(
    shape: tuple[int, int, int, int], padding: int, seed: int
) -> None:
    numbers = np.random.default_rng(seed)
    images = numbers.integers(1, 256, shape, np.uint8)
    top, left = numbers.integers(2 * padding + 1, size=(2, shape[0]))
    flipped = numbers.integers(2, size=shape[0])
    ours = crop_and_flip(
        torch.from_numpy(images), padding, *map(torch.from_numpy, (top, left, flipped))
    )
    each = zip(images, top, left, flipped, strict=True)
    slow = np.stack([slow_window(image, padding, *place) for image, *place in each])
    assert ours.dtype == torch.uint8
    assert np.array_equal(ours, slow)


def windows(image: np.ndarray, augment: Augment) -> dict[bytes, tuple[int, int, int]]:
    """Every view of `image` that `augment` allows."""
    places = range(2 * augment.crop_padding + 1)
    return {
        slow_window(image, augment.crop_padding, top, left, flipped).tobytes(): (top, left, flipped)
        for top in places
        for left in places
        for flipped in range(1 + augment.flip)
    }


@pytest.mark.parametrize("augment", [STILL, LIVELY, Augment(1, False), Augment(0, True)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_epoch_shows_every_image_once_through_an_allowed_window(
    channels: int, augment: Augment
) -> None:
    split = make_split(channels=channels)
    images, labels = joined(epoch_of(split, augment=augment))
    assert sorted(labels.tolist()) == list(range(40))
    pixels = images.round().to(torch.uint8).numpy()
    originals = split.images.numpy()
    for view, label in zip(pixels, labels.tolist(), strict=True):
        assert view.tobytes() in windows(originals[label], augment)


def test_every_window_and_both_sides_occur_equally_often() -> None:
    split = make_split(count=1)
    many = Split(split.images.repeat(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.int64))
    images, _ = joined(epoch_of(many, 4000, augment=Augment(1, True)))
    known = windows(split.images[0].numpy(), Augment(1, True))
    assert len(known) == 18
    seen = [known[view.tobytes()] for view in images.round().to(torch.uint8).numpy()]
    tally = np.array([seen.count(place) for place in known.values()])
    assert np.abs(tally - 4000 / 18).max() < 5 * np.sqrt(4000 / 18)


def test_shapes_dtypes_and_the_short_batch() -> None:
    parts = list(epoch_of(make_split(count=20, channels=3), 8))
    assert [tuple(images.shape) for images, _ in parts] == [(8, 3, 6, 5)] * 2
    assert all(images.dtype == torch.float32 for images, _ in parts)
    assert all(labels.dtype == torch.int64 and labels.shape == (8,) for _, labels in parts)


def test_an_epoch_may_end_early_on_other_images_each_time() -> None:
    split = make_split()
    for most, expected in ((2, 2), (5, 5), (9, 5)):
        short = TrainingBatches(
            split, 8, seed=0, mean=[0.0], std=[1 / 255], augment=LIVELY, most=most
        )
        assert len(short) == expected
        for epoch in range(2):
            short.begin(epoch)
            seen = torch.cat([short.take()[1] for _ in range(len(short))])
            assert torch.equal(seen, joined(epoch_of(split, epoch=epoch))[1][: len(seen)])


def test_an_epoch_without_steps_is_refused() -> None:
    with pytest.raises(GemkernError, match="cannot have 0 steps"):
        TrainingBatches(make_split(), 8, seed=0, mean=[0.0], std=[1.0], augment=STILL, most=0)


def test_a_batch_may_be_the_whole_split() -> None:
    images, labels = joined(epoch_of(make_split(), 40))
    assert len(images) == len(labels.unique()) == 40


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    split = make_split()
    images, labels = joined(epoch_of(split, seed=7, epoch=3))
    torch.manual_seed(1)
    same_images, same_labels = joined(epoch_of(split, seed=7, epoch=3))
    assert torch.equal(images, same_images)
    assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"seed": 1, "epoch": 1}], ids=str)
def test_other_epochs_and_seeds_differ_in_order_and_in_windows(other: dict[str, int]) -> None:
    split = make_split()
    images, labels = joined(epoch_of(split))
    other_images, other_labels = joined(epoch_of(split, **other))
    assert not torch.equal(labels, other_labels)
    assert not torch.equal(images[labels.argsort()], other_images[other_labels.argsort()])


def test_the_batch_size_does_not_change_the_epoch() -> None:
    split = make_split()
    for ours, theirs in zip(joined(epoch_of(split, 5)), joined(epoch_of(split, 20)), strict=True):
        assert torch.equal(ours, theirs)


def test_no_global_random_numbers_are_used() -> None:
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    joined(epoch_of(make_split()))
    assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


MEAN, STD = (0.491, 0.482, 0.0), (0.247, 0.243, 0.5)


def test_epochs_follow_each_other_in_the_same_place() -> None:
    split = make_split(count=20)
    fixed: dict[str, Any] = {"seed": 3, "mean": [0.0], "std": [1 / 255], "augment": LIVELY}
    source = TrainingBatches(split, 8, **fixed)
    assert len(source) == 2
    fixed_tensors = {name: one for name, one in vars(source).items() if torch.is_tensor(one)}
    assert len(fixed_tensors) == 3
    for epoch in (0, 5, 5):
        source.begin(epoch)
        expected = batches(split, 8, epoch=epoch, **fixed)
        for images, labels in expected:
            taken = source.take()
            assert torch.equal(taken[0], images)
            assert torch.equal(taken[1], labels)
    assert all(getattr(source, name) is tensor for name, tensor in fixed_tensors.items())


def test_normalisation_is_as_exact_as_plain_pytorch() -> None:
    """Twice the error of PyTorch's own way in float32 is allowed, and no more."""
    values = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    split = Split(values, torch.zeros(1, dtype=torch.int64))
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (MEAN, STD))
    exact = (values.double() / 255 - mean) / std
    plain = (values.float() / 255 - mean.float()) / std.float()
    allowed = 2 * (plain - exact).abs().max() + 1e-7
    (ours, _), *rest = eval_batches(split, 1, mean=MEAN, std=STD)
    assert not rest
    assert (ours - exact).abs().max() <= allowed
    (trained, _), *rest = batches(split, 1, seed=0, epoch=0, mean=MEAN, std=STD, augment=STILL)
    assert not rest
    assert torch.equal(trained, ours)


def test_padding_is_black_before_normalisation() -> None:
    white = torch.full((64, 3, 4, 4), 255, dtype=torch.uint8)
    split = Split(white, torch.zeros(64, dtype=torch.int64))
    augment = Augment(crop_padding=2, flip=False)
    (images, _), *_ = batches(split, 64, seed=0, epoch=0, mean=MEAN, std=STD, augment=augment)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        black, bright = images[:, channel].unique().tolist()
        assert black == pytest.approx(-mean / std, abs=1e-6)
        assert bright == pytest.approx((1 - mean) / std, abs=1e-6)


def test_evaluation_goes_through_the_split_as_it_is() -> None:
    split = make_split(count=10)
    parts = list(eval_batches(split, 4, mean=[0.0], std=[1 / 255]))
    assert [len(images) for images, _ in parts] == [4, 4, 2]
    images, labels = joined(iter(parts))
    assert images.dtype == torch.float32
    assert torch.equal(images.round(), split.images.float())
    assert torch.equal(labels, split.labels)


@pytest.mark.parametrize("batch_size", [-1, 0, 41])
def test_batch_sizes_that_do_not_fit_are_refused_at_once(batch_size: int) -> None:
    with pytest.raises(GemkernError, match=f"batch_size is {batch_size}: .* at most 40"):
        epoch_of(make_split(), batch_size)


def test_evaluation_refuses_an_empty_batch_at_once() -> None:
    with pytest.raises(GemkernError, match="batch_size is 0: give at least 1"):
        eval_batches(make_split(), 0, mean=[0.0], std=[1.0])


@pytest.mark.parametrize("bad", [{"seed": -1}, {"epoch": -2}], ids=str)
def test_negative_seeds_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(GemkernError, match="neither may be negative"):
        epoch_of(make_split(), **bad)


def test_nothing_is_read_back_by_the_host() -> None:
    """On the meta device there is nothing to read: any host read would raise."""
    split = make_split(count=16).to("meta")
    images, labels = joined(epoch_of(split, 8))
    assert images.is_meta
    assert labels.is_meta
    assert images.shape == (16, 1, 6, 5)
    assert all(x.is_meta for x, _ in eval_batches(split, 8, mean=[0.0], std=[1.0]))
