"""What edge-popup keeps, against a plain sort by (|score|, index)."""

from __future__ import annotations

import math

import pytest
import torch
from gemkern.kernels.reference import popup_mask, popup_weight
from hypothesis import given, settings
from hypothesis import strategies as st
from same_bits import same_bits
from torch import Tensor

INF, NAN = math.inf, math.nan
# Few different magnitudes, so that ties are the rule.
SCORES = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, INF, -INF, NAN])
SHAPES = st.sampled_from([(0,), (1,), (7,), (3, 4), (2, 1, 3, 2), (0, 3), ()])


def kept_by_sorting(scores: list[float], kept: int) -> list[bool]:
    def order(i: int) -> tuple[bool, float, int]:
        isnan = math.isnan(scores[i])
        return isnan, 0.0 if isnan else abs(scores[i]), i

    left = sorted(range(len(scores)), key=order)[len(scores) - kept :]
    return [i in left for i in range(len(scores))]


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[Tensor], list[int]]:
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float16]))
    scores, kept = [], []
    for shape in draw(st.lists(SHAPES, min_size=1, max_size=4)):
        n = math.prod(shape)
        numbers = draw(st.lists(SCORES, min_size=n, max_size=n))
        scores.append(torch.tensor(numbers, dtype=dtype).view(shape))
        kept.append(draw(st.integers(0, n)))
    return scores, kept


@settings(max_examples=150, deadline=None)
@given(layers())
def test_each_layer_keeps_its_largest_magnitudes(model: tuple[list[Tensor], list[int]]) -> None:
    scores, kept = model
    before = [score.clone() for score in scores]
    masks = popup_mask(scores, torch.tensor(kept))
    for score, mask, k in zip(scores, masks, kept, strict=True):
        assert (mask.dtype, mask.shape) == (torch.bool, score.shape)
        assert mask.view(-1).tolist() == kept_by_sorting(score.view(-1).tolist(), k)
        assert mask.sum() == k
    assert all(map(same_bits, scores, before))


@pytest.mark.parametrize(("kept", "left"), [(-3, 0), (9, 4)])
def test_a_count_beyond_the_layer_is_all_of_it_and_one_below_nothing(kept: int, left: int) -> None:
    (mask,) = popup_mask([torch.tensor([1.0, -2.0, NAN, 0.0])], torch.tensor([kept]))
    assert mask.sum() == left


def test_order_is_row_major_whatever_the_strides() -> None:
    scores = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]]).T.contiguous().T
    (mask,) = popup_mask([scores], torch.tensor([3]))
    assert mask.tolist() == [[False, False], [False, True], [True, True]]
    assert mask.stride() == scores.stride()


def test_weights_are_kept_whole_and_others_are_plus_zero() -> None:
    weights = torch.tensor([-1.0, -0.0, INF, -INF, NAN, -2.0])
    scores = torch.tensor([-3.0, 3.0, 0.1, -0.1, 0.2, -2.0])
    (effective,) = popup_weight([weights], [scores], torch.tensor([3]))
    assert same_bits(effective, torch.tensor([-1.0, -0.0, 0.0, 0.0, 0.0, -2.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_result_is_in_the_dtype_asked_for_or_the_weights_own(dtype: torch.dtype) -> None:
    weights, scores = torch.randn(5, 4).to(dtype), torch.randn(5, 4)
    (mask,) = popup_mask([scores], torch.tensor([7]))
    for asked in (None, torch.float64, torch.bfloat16):
        (effective,) = popup_weight([weights], [scores], torch.tensor([7]), asked)
        assert same_bits(effective, weights.masked_fill(~mask, 0).to(asked or dtype))


def test_the_result_lies_as_the_weight_does() -> None:
    weights = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    (effective,) = popup_weight([weights], [torch.randn(4, 3, 2, 2)], torch.tensor([5]))
    assert effective.is_contiguous(memory_format=torch.channels_last)
