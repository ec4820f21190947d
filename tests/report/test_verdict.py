"""A verdict on a ticket is a difference with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from gemkern.errors import GemkernError
from gemkern.experiments.records import Run
from gemkern.report.verdict import QUANTILES, verdict


def runs(method: str, accuracies: Sequence[float]) -> list[Run]:
    return [
        Run(method, seed, 0.1, 10, 0.1, accuracy, 0, 2, 0.0, 1.0, 1.0, {})
        for seed, accuracy in enumerate(accuracies)
    ]


def said(own: Sequence[float], others: Sequence[float]) -> str:
    return verdict(runs("imp", own) + runs("shuffled", others), "imp", "shuffled")


def test_a_difference_beyond_its_interval_counts() -> None:
    own, others = [0.90, 0.91, 0.92], [0.80, 0.80, 0.83]
    sentence = said(own, others)
    differences = [0.10, 0.11, 0.09]
    error = math.sqrt(sum((d - 0.10) ** 2 for d in differences) / 2 / 3)
    low, high = 0.10 - 4.303 * error, 0.10 + 4.303 * error
    assert sentence == (
        f"shuffled: the ticket knows more, +10.00 points (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}, standard error {100 * error:.2f}, 3 seeds)"
    )
    assert said(others, own).startswith("shuffled: the ticket is worse, -10.00 points")


def test_a_difference_within_its_interval_does_not() -> None:
    assert said([0.9, 0.8], [0.8, 0.75]).startswith("shuffled: no difference is seen, +7.50 points")


def test_one_seed_is_no_verdict() -> None:
    assert said([0.9], [0.1]) == (
        "shuffled: +80.00 points with one seed, which tells no uncertainty: give --seeds 3 or more"
    )


def test_seeds_have_to_be_shared() -> None:
    with pytest.raises(GemkernError, match="share no seed"):
        verdict(runs("imp", [0.9]), "imp", "shuffled")


def test_the_quantiles_are_students() -> None:
    # Of one degree of freedom it is Cauchy's, of two it has a closed form.
    assert QUANTILES[0] == pytest.approx(math.tan(math.pi * 0.475), abs=1e-3)
    assert QUANTILES[1] == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), abs=1e-3)
    assert list(QUANTILES) == sorted(QUANTILES, reverse=True)
