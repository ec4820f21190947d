"""The k lowest, against a plain sort by (value, index)."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from gemkern.kernels.reference import remove_lowest, select_kth
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INF, NAN = math.inf, math.nan
# Few different values, so that ties are the rule.
VALUES = st.sampled_from([0.0, -0.0, 0.5, 0.5, 1.0, -1.0, INF, -INF, NAN])
SHAPES = st.sampled_from([(0,), (1,), (7,), (3, 4), (2, 1, 3, 2), (0, 3), ()])


class Lowest(NamedTuple):
    """The answer of a plain sort: `removed` are positions in the flat list."""

    kth: float
    ties: int
    removed: list[int]


def lowest_by_sorting(values: list[float], active: list[bool], k: int) -> Lowest:
    def order(i: int) -> tuple[bool, float, int]:
        isnan = math.isnan(values[i])
        return isnan, 0.0 if isnan else values[i], i

    removed = sorted((i for i, on in enumerate(active) if on), key=order)[:k]
    if not removed:
        return Lowest(-INF, 0, [])
    kth = values[removed[-1]]
    return Lowest(kth, sum(order(i)[:2] == order(removed[-1])[:2] for i in removed), removed)


def check(kth: Tensor, ties: Tensor, expected: Lowest) -> None:
    assert ties.dtype == torch.int64
    assert ties.item() == expected.ties
    assert kth.item() == expected.kth or (kth.isnan() and math.isnan(expected.kth))


def flat(layers: list[Tensor]) -> list:
    return [value for layer in layers for value in layer.reshape(-1).tolist()]


@st.composite
def models(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor]]:
    dtype = draw(st.sampled_from(DTYPES))
    values, active = [], []
    for shape in draw(st.lists(SHAPES, min_size=1, max_size=4)):
        n = math.prod(shape)
        numbers = draw(st.lists(VALUES, min_size=n, max_size=n))
        flags = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        values.append(torch.tensor(numbers, dtype=dtype).view(shape))
        active.append(torch.tensor(flags, dtype=torch.bool).view(shape))
    return values, active


@settings(max_examples=150, deadline=None)
@given(models(), st.data())
def test_over_all_layers_exactly_the_k_lowest_go(model, data: st.DataObject) -> None:
    values, active = model
    flags = flat(active)
    k = data.draw(st.integers(0, sum(flags)), label="k")
    expected = lowest_by_sorting(flat(values), flags, k)
    kth, ties = select_kth(values, active, torch.tensor(k))
    assert kth.shape == ties.shape == ()
    assert kth.dtype == values[0].dtype
    check(kth, ties, expected)
    remove_lowest(values, active, kth, ties)
    left = [on and i not in expected.removed for i, on in enumerate(flags)]
    assert flat(active) == left
    assert sum(left) == sum(flags) - k


@settings(max_examples=100, deadline=None)
@given(models(), st.data())
def test_layer_by_layer_exactly_the_k_lowest_of_each_go(model, data: st.DataObject) -> None:
    values, active = model
    before = [flat([on]) for on in active]
    ks = [data.draw(st.integers(0, sum(flags)), label="k") for flags in before]
    kth, ties = select_kth(values, active, torch.tensor(ks))
    assert kth.shape == ties.shape == (len(values),)
    assert kth.dtype == values[0].dtype
    remove_lowest(values, active, kth, ties)
    for i, (value, flags, k) in enumerate(zip(values, before, ks, strict=True)):
        expected = lowest_by_sorting(flat([value]), flags, k)
        check(kth[i], ties[i], expected)
        assert flat([active[i]]) == [on and j not in expected.removed for j, on in enumerate(flags)]


@pytest.mark.parametrize("k", [0, 1, 500, 999, 1000])
def test_among_equals_the_first_go(k: int) -> None:
    values = [torch.full((600,), 0.25), torch.full((20, 20), 0.25)]
    active = [torch.ones_like(value, dtype=torch.bool) for value in values]
    kth, ties = select_kth(values, active, torch.tensor(k))
    remove_lowest(values, active, kth, ties)
    assert flat(active) == [False] * k + [True] * (1000 - k)


def test_what_is_not_active_is_neither_ranked_nor_touched() -> None:
    values = [torch.tensor([-INF, 0.1, -1.0, 0.2, NAN, 0.3])]
    active = [torch.tensor([False, True, False, True, False, True])]
    kth, ties = select_kth(values, active, torch.tensor(2))
    assert (kth.item(), ties.item()) == (values[0][3].item(), 1)
    remove_lowest(values, active, kth, ties)
    assert active[0].tolist() == [False] * 5 + [True]


def test_nan_is_last_and_an_infinity_before_it() -> None:
    values, active = [torch.tensor([NAN, INF, -INF, NAN])], [torch.ones(4, dtype=torch.bool)]
    order = []
    for _ in range(4):
        before = active[0].clone()
        remove_lowest(values, active, *select_kth(values, active, torch.tensor(1)))
        order.append((before & ~active[0]).nonzero().item())
    assert order == [2, 1, 0, 3]
    active = [torch.ones(4, dtype=torch.bool)]
    kth, ties = select_kth(values, active, torch.tensor(3))
    assert (kth.isnan().item(), ties.item()) == (True, 1)
    remove_lowest(values, active, kth, ties)
    assert active[0].tolist() == [False, False, False, True], "all numbers precede NaN"


def test_zeros_of_either_sign_are_equal() -> None:
    values, active = [torch.tensor([0.0, -0.0, 0.0, -0.0])], [torch.ones(4, dtype=torch.bool)]
    kth, ties = select_kth(values, active, torch.tensor(3))
    assert (kth.item(), ties.item()) == (0.0, 3)
    remove_lowest(values, active, kth, ties)
    assert active[0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("each", [False, True])
def test_order_is_row_major_and_active_is_cleared_in_place_whatever_the_strides(each) -> None:
    value = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    storage = torch.ones(3, 2, dtype=torch.bool)
    active = [storage.t()]
    k = torch.tensor([4] if each else 4)
    remove_lowest([value], active, *select_kth([value], active, k))
    assert active[0].tolist() == [[False, False, False], [True, False, True]]
    assert storage.t().tolist() == active[0].tolist()


def test_selection_changes_nothing() -> None:
    values, active = [torch.tensor([3.0, 1.0, 2.0])], [torch.ones(3, dtype=torch.bool)]
    select_kth(values, active, torch.tensor(2))
    assert values[0].tolist() == [3.0, 1.0, 2.0]
    assert active[0].all()
