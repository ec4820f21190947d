"""The digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gemkern.data import load
from gemkern.data.digits import read
from gemkern.errors import GemkernError


def test_pixels_are_scaled_to_eight_bits_and_labels_kept() -> None:
    digits, source = load_digits(), read()
    ours = torch.cat([source.train.images, source.test.images]).flatten(1).tolist()
    labels = torch.cat([source.train.labels, source.test.labels]).tolist()
    theirs = [[int(value * 255 / 16 + 0.5) for value in row] for row in digits.data]
    pairs = zip(ours, labels, strict=True)
    assert sorted(pairs) == sorted(zip(theirs, digits.target.tolist(), strict=True))
    assert source.train.images.shape[1:] == (1, 8, 8)
    assert source.train.images.max() == 255


def test_a_fifth_of_every_class_is_the_test_split() -> None:
    source = read()
    totals = np.bincount(load_digits().target)
    held_out = np.bincount(source.test.labels)
    assert held_out.tolist() == np.rint(0.2 * totals).tolist()


def test_the_test_split_is_the_same_for_every_seed() -> None:
    one, other = load("digits", seed=1), load("digits", seed=2)
    assert torch.equal(one.test.images, other.test.images)
    assert not torch.equal(one.validation.images, other.validation.images)


def test_how_digits_vary() -> None:
    augment = load("digits").augment
    assert (augment.crop_padding, augment.flip) == (1, False)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(GemkernError, match=r"scikit-learn.*: pip install gemkern\[demo\]$"):
        load("digits")
