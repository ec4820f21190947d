"""popup_mask and popup_weight: bit for bit those of the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import popup as gpu
from gemkern.kernels.gpu.select_kth import PARTS
from gemkern.kernels.gpu.tables import BLOCK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

PROGRAM = PARTS * BLOCK
SHAPES = [(3,), (), (0, 5), (32, 32), (37, 5, 3, 3), (PROGRAM + 1,)]
SIZES = [math.prod(shape) for shape in SHAPES]
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, -1e-45]
KEPT = [
    [0] * len(SIZES),
    SIZES,
    [min(1, size) for size in SIZES],
    [size // 3 for size in SIZES],
    [2, 0, 0, 900, 17, PROGRAM - 5],
    [9, -1, 4, 2000, -5, 1],
]


def model(
    dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of `dtype` and scores of either sign, a few of both special."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [torch.randn(shape, generator=generator, dtype=wide) for shape in shapes]
    scores = [torch.randn(shape, generator=generator, dtype=wide) for shape in shapes]
    for tensor in (*weights, *scores):
        if tensor.numel() > 100:
            tensor.view(-1)[40 : 40 + len(SPECIAL)] = torch.tensor(SPECIAL, dtype=wide)
    return [weight.to(dtype) for weight in weights], scores


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert mine.stride() == other.stride()
        assert torch.equal(mine.isnan(), other.isnan())
        assert torch.equal(mine.nan_to_num(7), other.nan_to_num(7))
        numbers = ~other.isnan()
        assert torch.equal(mine.signbit() & numbers, other.signbit() & numbers)


@pytest.mark.parametrize("kept", KEPT)
def test_masks(kept: list[int]) -> None:
    _, scores = model()
    given = torch.tensor(kept)
    masks = gpu.popup_mask(scores, given)
    assert_same(masks, reference.popup_mask(scores, given))
    assert [int(mask.sum()) for mask in masks] == [
        min(max(k, 0), size) for k, size in zip(kept, SIZES, strict=True)
    ]
    assert given.tolist() == kept


@pytest.mark.parametrize("out", [None, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_weights(dtype: torch.dtype, out: torch.dtype | None) -> None:
    weights, scores = model(dtype)
    before = [tensor.clone() for tensor in (*weights, *scores)]
    kept = torch.tensor(KEPT[3])
    assert_same(
        gpu.popup_weight(weights, scores, kept, out),
        reference.popup_weight(weights, scores, kept, out),
    )
    assert_same((*weights, *scores), before)


def test_the_sign_of_a_score_is_not_looked_at() -> None:
    _, scores = model(shapes=[(2000,)])
    kept = torch.tensor([700])
    turned = [score * torch.where(torch.arange(2000) % 3 == 0, -1, 1) for score in scores]
    assert_same(gpu.popup_mask(turned, kept), gpu.popup_mask(scores, kept))


@pytest.mark.parametrize("kept", [1, BLOCK, PROGRAM, PROGRAM + 7])
def test_of_equal_magnitudes_the_last_stay(kept: int) -> None:
    size = PROGRAM + 9
    scores = [torch.where(torch.arange(size) % 2 == 0, -0.5, 0.5)]
    (mask,) = gpu.popup_mask(scores, torch.tensor([kept]))
    assert torch.equal(mask, torch.arange(size) >= size - kept)


def test_layers_of_different_dtypes() -> None:
    weights, scores = model()
    weights = [weights[0].half(), weights[1].double(), *weights[2:]]
    kept = torch.tensor(KEPT[4])
    assert_same(
        gpu.popup_weight(weights, scores, kept), reference.popup_weight(weights, scores, kept)
    )


@pytest.mark.parametrize("last", ["weights", "scores"])
def test_order_is_row_major_and_results_lie_as_weights_or_scores_do(last: str) -> None:
    shapes = [(8, 4, 3, 3), (5, 7)]
    layers = dict(zip(("weights", "scores"), model(shapes=shapes), strict=True))
    layers["scores"] = [(score * 2).round() for score in layers["scores"]]
    first = layers[last]
    first[0] = first[0].to(memory_format=torch.channels_last)
    first[1] = first[1].T.contiguous().T
    kept = torch.tensor([100, 11])
    assert_same(
        gpu.popup_weight(layers["weights"], layers["scores"], kept, torch.float16),
        reference.popup_weight(layers["weights"], layers["scores"], kept, torch.float16),
    )
    assert_same(
        gpu.popup_mask(layers["scores"], kept), reference.popup_mask(layers["scores"], kept)
    )


def test_operands_of_any_stride_and_offset() -> None:
    storage = torch.randn(60, 70, generator=torch.Generator().manual_seed(1))
    scores = [storage[3:33, 5:50], storage.T[::2], storage[1::3, 1::7], storage[7, 1:]]
    weights = [score.flip(0) for score in scores]
    kept = torch.tensor([600, 3, 50, 69])
    before = storage.clone()
    assert_same(
        gpu.popup_weight(weights, scores, kept), reference.popup_weight(weights, scores, kept)
    )
    assert torch.equal(storage, before)


@given(
    sizes=st.lists(st.integers(0, 1100), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    levels=st.sampled_from([1, 3, 1000]),
    data=st.data(),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_model(sizes: list[int], dtype: torch.dtype, levels: int, data: st.DataObject) -> None:
    weights, scores = model(dtype, [(size,) for size in sizes], data.draw(st.integers(0, 99)))
    scores = [(score * levels).round() / levels for score in scores]
    kept = torch.tensor([data.draw(st.integers(0, size)) for size in sizes])
    assert_same(
        gpu.popup_weight(weights, scores, kept, torch.float16),
        reference.popup_weight(weights, scores, kept, torch.float16),
    )
