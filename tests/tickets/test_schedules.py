import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemkern.errors import GemkernError
from gemkern.tickets import freeze_epochs, freeze_rate, imp_weights_left, weights_left
from gemkern.tickets.schedules import share

RESNET20, MOBILENET, VGG16, WIDE_RESNET = 268_336, 2_261_824, 14_715_584, 1_463_984


@pytest.mark.parametrize(
    (
        "total",
        "density",
        "epochs",
        "every",
        "freezes",
        "rate",
        "paper_freezes",
        "paper_rate",
        "left",
    ),
    [
        (RESNET20, 0.0144, 150, 5, 29, 0.136037, 30, 0.131815, 3861),
        (RESNET20, 0.0372, 150, 5, 29, 0.107294, 30, 0.103910, 9977),
        (RESNET20, 0.0059, 150, 5, 29, 0.162215, 30, 0.157257, 1580),
        (RESNET20, 0.0059, 150, 8, 18, 0.248103, 18, 0.239477, 1581),
        (RESNET20, 0.5, 150, 8, 18, 0.037776, 18, 0.036293, 134_161),
        (MOBILENET, 0.014, 300, 5, 59, 0.069795, 60, 0.068673, 31_659),
        (VGG16, 0.005, 200, 5, 39, 0.127030, 40, 0.124060, 73_574),
        (WIDE_RESNET, 0.014, 150, 10, 14, 0.262808, 15, 0.247670, 20_493),
    ],
)
def test_published_schedules(
    total, density, epochs, every, freezes, rate, paper_freezes, paper_rate, left
):
    assert len(freeze_epochs(epochs, every)) == freezes
    assert round(freeze_rate(density, epochs, every), 6) == rate
    assert len(freeze_epochs(epochs, every, "paper")) == paper_freezes
    assert round(freeze_rate(density, epochs, every, "paper"), 6) == paper_rate
    assert weights_left(total, density, epochs, every)[-1] == left


def test_authors_freeze_on_multiples_but_not_at_first():
    assert freeze_epochs(7, 2) == [2, 4, 6]
    assert freeze_epochs(8, 2) == [2, 4, 6]
    assert freeze_epochs(150, 5) == list(range(5, 150, 5))


def test_paper_freezes_after_each_period_and_at_the_end():
    assert freeze_epochs(7, 2, "paper") == [1, 3, 5]
    assert freeze_epochs(8, 2, "paper") == [1, 3, 5, 7]


def test_counts_take_the_ceiling_of_each_share():
    assert freeze_rate(0.25, 3, 1) == 0.5
    assert weights_left(101, 0.25, 3, 1) == [50, 25]


@pytest.mark.parametrize("rate", [1 - 0.7, 0.1 + 0.2])
def test_a_rounding_error_removes_no_weight(rate):
    assert math.ceil(rate * 10) == 4
    assert share(rate, 10) == 3


@given(
    total=st.integers(1_000, 10_000_000),
    density=st.floats(0.01, 0.99),
    epochs=st.integers(2, 60),
    every=st.integers(1, 10),
)
@settings(max_examples=60, deadline=None)
def test_authors_rule_ends_within_one_weight_a_freeze_of_the_density(total, density, epochs, every):
    if every >= epochs:
        every = 1
    after = weights_left(total, density, epochs, every)
    assert sorted(after, reverse=True) == after
    assert density * total - len(after) <= after[-1] <= density * total + 1


def test_imp_removes_a_fifth_a_round_and_ends_on_the_target():
    assert imp_weights_left(100, 0.5) == [80, 64, 51, 50]
    assert imp_weights_left(11, 0.5, prune=0.3) == [7, 6]
    assert imp_weights_left(100, 0.001)[-1] == 1


def test_imp_reaches_the_paper_density_in_twenty_rounds():
    assert len(imp_weights_left(RESNET20, 0.0144)) == 20
    assert imp_weights_left(RESNET20, 0.0144)[-1] == round(0.0144 * RESNET20)


def test_imp_meets_another_schedule_to_the_weight():
    for left in range(1, 264):
        assert imp_weights_left(264, left / 264)[-1] == left


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1, 1.44, math.nan])
def test_a_density_is_between_0_and_1(density):
    for plan in (
        lambda: freeze_rate(density, 10, 1),
        lambda: weights_left(100, density, 10, 1),
        lambda: imp_weights_left(100, density),
    ):
        with pytest.raises(GemkernError, match="density"):
            plan()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda: freeze_epochs(5, 5), "never happens"),
        (lambda: freeze_epochs(4, 5, "paper"), "never happens"),
        (lambda: freeze_epochs(5, 0), "at least 1"),
        (lambda: freeze_epochs(0, 1), "at least 1"),
        (lambda: freeze_epochs(2**31, 1), "at most 1000000 epochs"),
        (lambda: freeze_epochs(10**5000, 1), "a search of a number of 16610 bits epochs"),
        (lambda: freeze_epochs(5, 10**5000), "freezing every a number of 16610 bits epochs"),
        (lambda: freeze_epochs(5, 1, "mine"), "'mine'.*authors, paper"),
        (lambda: weights_left(10, 0.01, 10, 1), "no weight of 10"),
        (lambda: imp_weights_left(100, 0.5, prune=0.0), "cannot prune 0"),
        (lambda: imp_weights_left(100, 0.5, prune=1.0), "cannot prune 1"),
        (lambda: imp_weights_left(10, 0.99), "nothing to prune"),
    ],
)
def test_plans_that_cannot_be_are_refused(plan, message):
    with pytest.raises(GemkernError, match=message):
        plan()
