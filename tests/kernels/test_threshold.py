"""Masks and effective weights, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gemkern.kernels.reference import effective_weight, threshold
from same_bits import bits, same_bits

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INF, NAN = math.inf, math.nan
WEIGHTS = [1.5, -1.5, INF, -INF, NAN, -0.0, 0.0]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def random_layers(*shapes: tuple[int, ...], seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    scores = [torch.rand(shape, generator=generator) for shape in shapes]
    active = [torch.rand(shape, generator=generator) < 0.7 for shape in shapes]
    return weights, scores, active


@every_dtype
def test_a_score_of_one_half_is_on_and_the_next_below_is_off(dtype: torch.dtype) -> None:
    half = torch.tensor(0.5, dtype=dtype)
    below = (bits(half) - 1).view(dtype)
    scores = torch.stack([half, below, *torch.tensor([NAN, INF, -INF, -0.0, 1.0], dtype=dtype)])
    expected = torch.tensor([True, False, False, True, False, False, True])
    assert torch.equal(threshold([scores], [torch.ones(7, dtype=torch.bool)])[0], expected)
    assert not threshold([scores], [torch.zeros(7, dtype=torch.bool)])[0].any()


def test_any_threshold_as_a_number_or_on_the_device() -> None:
    scores, active = torch.tensor([0.0, 0.25, 0.3, 1.0]), torch.tensor([True, True, True, False])
    for tau in (0.3, torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64)):
        assert threshold([scores], [active], tau)[0].tolist() == [False, False, True, False]


def test_without_scores_the_mask_is_a_copy_of_active() -> None:
    active = [torch.tensor([True, False]), torch.tensor([[True]])]
    masks = threshold(None, active)
    assert all(map(torch.equal, masks, active))
    masks[0][0] = False
    assert active[0][0]


def test_layers_are_answered_in_order_and_may_be_empty() -> None:
    _, scores, active = random_layers((4, 3), (0,), (2, 3, 1, 2), ())
    masks = threshold(scores, active)
    for mask, score, on in zip(masks, scores, active, strict=True):
        assert np.array_equal(mask, (score.numpy() >= 0.5) & on.numpy())


@every_dtype
def test_weights_pass_bit_for_bit_and_the_rest_is_positive_zero(dtype: torch.dtype) -> None:
    tiny = torch.ones((), dtype=torch.int64).to(bits(torch.ones((), dtype=dtype)).dtype)
    weight = torch.cat([torch.tensor(WEIGHTS, dtype=dtype), tiny.view(dtype).view(1)])
    on, off = torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)
    assert same_bits(effective_weight([weight], None, [on])[0], weight)
    for scores, active in ((None, off), ([weight.new_zeros(8)], on), ([weight.new_ones(8)], off)):
        assert not bits(effective_weight([weight], scores, [active])[0]).any()


def test_the_mask_of_the_effective_weight_is_that_of_threshold() -> None:
    weights, scores, active = random_layers((4, 3), (0,), (2, 3, 3, 3))
    effective = effective_weight(weights, scores, active, tau=0.3)
    masks = threshold(scores, active, tau=0.3)
    for weight, mask, made in zip(weights, masks, effective, strict=True):
        assert same_bits(made, torch.from_numpy(np.where(mask, weight, np.float32(0))))


@every_dtype
def test_the_effective_weight_is_rounded_once_to_the_dtype_asked_for(dtype: torch.dtype) -> None:
    weights, scores, active = random_layers((64, 3))
    (made,) = effective_weight(weights, scores, active, dtype=dtype)
    mask = (scores[0] >= 0.5) & active[0]
    assert same_bits(made, (weights[0] * mask + 0.0).to(dtype))


def test_the_memory_format_asked_for_is_that_of_four_dimensional_weights_alone() -> None:
    weights, scores, active = random_layers((4, 3, 3, 3), (4, 3))
    conv, linear = effective_weight(weights, scores, active, memory_format=torch.channels_last)
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert linear.is_contiguous()
    plain = effective_weight(weights, scores, active)
    assert all(map(same_bits, (conv, linear), plain))


@pytest.mark.parametrize("scored", [True, False])
def test_by_default_the_memory_format_is_that_of_the_weight(scored: bool) -> None:
    (weight,), scores, active = random_layers((4, 3, 3, 3))
    last = weight.contiguous(memory_format=torch.channels_last)
    given = scores if scored else None
    (made,) = effective_weight([last], given, active)
    assert made.stride() == last.stride()
    assert same_bits(made, effective_weight([weight], given, active)[0])


def test_any_strides_give_the_same_masks_and_weights() -> None:
    weights, scores, active = random_layers((5, 4))
    turned = [[t.t() for t in tensors] for tensors in (weights, scores, active)]
    assert torch.equal(threshold(*turned[1:])[0].t(), threshold(scores, active)[0])
    expected = effective_weight(weights, scores, active)[0]
    assert same_bits(effective_weight(*turned)[0].t(), expected)
