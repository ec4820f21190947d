"""The k lowest and their removal, against numpy's sort by (NaN, value, index)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import host_reads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gemkern import GemkernError, ops

# Few different values, so that ties are the rule.
VALUES = [0.0, -0.0, 0.5, 0.5, 1.0, -1.0, math.inf, -math.inf, math.nan]
VALUE, ON = torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
NUMBER, COUNT = torch.tensor(0.5), torch.tensor(1)

Layers = list[Tensor]


def lowest_by_numpy(values: Layers, active: Layers, k: int) -> tuple[float, int, list[bool]]:
    """The k-th value, its ties among the k lowest, and which entries are left, all in one row."""
    row = np.concatenate([value.double().numpy().ravel() for value in values])
    on = np.concatenate([layer.numpy().ravel() for layer in active])
    order = np.lexsort((np.arange(row.size), np.where(np.isnan(row), 0, row), np.isnan(row), ~on))
    chosen = order[:k]
    left = on.copy()
    left[chosen] = False
    if k == 0:
        return -math.inf, 0, left.tolist()
    kth = row[chosen[-1]]
    equal = np.isnan(row[chosen]) if np.isnan(kth) else row[chosen] == kth
    return float(kth), int(equal.sum()), left.tolist()


def flags(active: Layers) -> list[bool]:
    return torch.cat([layer.flatten() for layer in active]).tolist()


def equal_or_both_nan(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@st.composite
def models(draw: st.DrawFn) -> tuple[Layers, Layers]:
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    values, active = [], []
    for shape in draw(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3)):
        n = math.prod(shape)
        numbers = draw(st.lists(st.sampled_from(VALUES), min_size=n, max_size=n))
        on = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        values.append(torch.tensor(numbers, dtype=dtype).view(shape))
        active.append(torch.tensor(on, dtype=torch.bool).view(shape))
    return values, active


@settings(max_examples=100, deadline=None)
@given(models(), st.data())
def test_over_all_layers_exactly_the_k_lowest_go(model: Any, data: st.DataObject) -> None:
    values, active = model
    before = flags(active)
    k = data.draw(st.integers(0, sum(before)), label="k")
    wanted, wanted_ties, left = lowest_by_numpy(values, active, k)
    kth, ties = ops.select_kth(values, active, torch.tensor(k))
    assert (kth.shape, ties.shape) == ((), ())
    assert (kth.dtype, ties.dtype) == (values[0].dtype, torch.int64)
    assert equal_or_both_nan(kth.item(), wanted)
    assert ties.item() == wanted_ties
    assert flags(active) == before
    ops.remove_lowest(values, active, kth, ties)
    assert flags(active) == left
    assert sum(left) == sum(before) - k


@settings(max_examples=60, deadline=None)
@given(models(), st.data())
def test_each_layer_loses_exactly_its_own_k_lowest(model: Any, data: st.DataObject) -> None:
    values, active = model
    ks = [data.draw(st.integers(0, int(on.sum())), label="k") for on in active]
    expected = [
        lowest_by_numpy([value], [on], k) for value, on, k in zip(values, active, ks, strict=True)
    ]
    kth, ties = ops.select_kth(values, active, torch.tensor(ks))
    assert kth.shape == ties.shape == (len(values),)
    ops.remove_lowest(values, active, kth, ties)
    for i, (wanted, wanted_ties, left) in enumerate(expected):
        assert equal_or_both_nan(kth[i].item(), wanted)
        assert ties[i].item() == wanted_ties
        assert flags([active[i]]) == left


@pytest.mark.parametrize("k", [0, 1, 6, 7, 11, 12])
def test_among_equals_the_first_go_across_layers(k: int) -> None:
    values, active = [torch.full((2, 3), 0.25)] * 2, [ON.clone(), ON.clone()]
    ops.remove_lowest(values, active, *ops.select_kth(values, active, torch.tensor(k)))
    assert flags(active) == [False] * k + [True] * (12 - k)


@pytest.mark.parametrize("k", [torch.tensor(0), torch.tensor([0, 0])])
def test_nothing_goes_where_none_is_asked_for(k: Tensor) -> None:
    values, active = [torch.full((2, 3), -math.inf)] * 2, [ON.clone(), ON.clone()]
    kth, ties = ops.select_kth(values, active, k)
    assert (kth == -math.inf).all()
    assert not ties.any()
    ops.remove_lowest(values, active, kth, ties)
    assert all(flags(active))


def test_tuples_of_layers_will_do_and_active_stays_the_same_tensor() -> None:
    storage = ON.t().clone()
    active = (storage.t(),)
    ops.remove_lowest((VALUE,), active, *ops.select_kth((VALUE,), active, torch.tensor(4)))
    assert storage.sum() == 2


@pytest.mark.parametrize("k", [torch.tensor(2), torch.tensor([2, 1])])
def test_no_number_is_read(k: Tensor) -> None:
    values, active = [VALUE, torch.rand(4)], [ON.clone(), torch.ones(4, dtype=torch.bool)]
    assert not host_reads(
        lambda: ops.remove_lowest(values, active, *ops.select_kth(values, active, k))
    )


def test_a_backward_pass_notices_the_removal() -> None:
    x, active = torch.ones(1, 3, requires_grad=True), ON.clone()
    y = ops.masked_linear(x, VALUE, None, active)
    ops.remove_lowest([VALUE], [active], *ops.select_kth([VALUE], [active], COUNT))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


BAD_LISTS = [
    (VALUE, [ON], "values is a tensor; give a list with one for each layer"),
    ([VALUE], ON, "active is a tensor; give a list with one for each layer"),
    ([], [], "values has 0 layers and values 0; give one tensor for each layer, and one layer at"),
    ([VALUE], [ON, ON], "values has 1 layers and active 2; give one tensor for each layer"),
    ([VALUE], [ON.t()], r"in layer 0, active is \(3, 2\) on cpu and values \(2, 3\) on cpu"),
    ([VALUE], [ON.to("meta")], r"in layer 0, active is \(2, 3\) on meta and values \(2, 3\) on"),
    ([VALUE], [VALUE], "in layer 0, active is torch.float32; give bool tensors"),
    ([VALUE.long()], [ON], "in layer 0, values are torch.int64, and torch.int64 in the first"),
    ([VALUE, VALUE.half()], [ON, ON], "in layer 1, values are torch.float16, and torch.float32"),
]


@pytest.mark.parametrize("where", ["select_kth", "remove_lowest"])
@pytest.mark.parametrize(("values", "active", "message"), BAD_LISTS)
def test_lists_that_do_not_fit_are_refused(where: str, values, active, message: str) -> None:
    ranks = (COUNT,) if where == "select_kth" else (NUMBER, COUNT)
    with pytest.raises(GemkernError, match=f"^{where}: {message}"):
        getattr(ops, where)(values, active, *ranks)


@pytest.mark.parametrize(
    ("k", "found"),
    [
        (torch.tensor(1.0), r"torch.float32 \(\) on cpu"),
        (torch.tensor(1, dtype=torch.int32), r"torch.int32 \(\) on cpu"),
        (torch.tensor([1]), r"torch.int64 \(1,\) on cpu"),
        (torch.tensor([[1, 1]]), r"torch.int64 \(1, 2\) on cpu"),
        (COUNT.to("meta"), r"torch.int64 \(\) on meta"),
    ],
)
def test_a_rank_is_whole_and_one_for_all_or_one_for_each(k: Tensor, found: str) -> None:
    wanted = r"give torch.int64 on cpu, of shape \(\) for all layers or \(2,\) for each$"
    with pytest.raises(GemkernError, match=f"^select_kth: k is {found}; {wanted}"):
        ops.select_kth([VALUE, VALUE], [ON, ON], k)


@pytest.mark.parametrize(
    ("kth", "ties", "message"),
    [
        (NUMBER.double(), COUNT, r"kth is torch.float64 \(\) on cpu; give torch.float32 on cpu"),
        (NUMBER, NUMBER, r"ties is torch.float32 \(\) on cpu; give torch.int64 on cpu"),
        (NUMBER.expand(3), COUNT, r"kth is torch.float32 \(3,\) on cpu; .* or \(2,\) for each"),
        (NUMBER.expand(2), COUNT, r"kth has shape \(2,\) and ties \(\); give both as select_kth"),
    ],
)
def test_what_removal_takes_is_what_selection_gave(kth: Tensor, ties: Tensor, message) -> None:
    with pytest.raises(GemkernError, match=f"^remove_lowest: {message}"):
        ops.remove_lowest([VALUE, VALUE], [ON, ON], kth, ties)
