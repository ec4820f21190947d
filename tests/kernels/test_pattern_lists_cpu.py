"""Lists of entries are made once for a pattern, and anew when it changes."""

from __future__ import annotations

import gc

import pytest
import torch
from gemkern.kernels.cpu import norm_sparse_conv2d as kernels
from gemkern.kernels.cpu.lists import pattern_lists
from gemkern.kernels.cpu.lists.pattern_lists import MOST, lists_of
from gemkern.kernels.reference.batch_last import batch_last
from gemkern.kernels.reference.pattern import Pattern, pattern
from sparse_cases import Case, Operands, convolution, gradients
from torch import Tensor
from torch.nn import functional as F

CASE = Case()


def _where(seed: int = 0) -> Pattern:
    generator = torch.Generator().manual_seed(seed)
    return pattern(torch.rand(6, 5, 3, 3, generator=generator) < 0.3)


def test_lists_are_made_once_for_each_purpose() -> None:
    where, made = _where(), []
    for purpose in ("a", "b", "a", "b"):
        assert lists_of(where, purpose, lambda p=purpose: made.append(p) or p) == purpose
    assert made == ["a", "b"]


def test_lists_are_made_anew_when_the_positions_change() -> None:
    where = _where()
    assert lists_of(where, "a", lambda: 1) == 1
    where.positions.add_(0)
    assert lists_of(where, "a", lambda: 2) == 2


def test_lists_go_with_their_pattern() -> None:
    where = _where()
    lists_of(where, "a", lambda: 1)
    known = id(where.positions)
    assert known in pattern_lists._made
    del where
    gc.collect()
    assert known not in pattern_lists._made


def test_no_more_lists_are_kept_than_there_is_room_for() -> None:
    where = _where()
    for purpose in range(3 * MOST):
        lists_of(where, purpose, lambda p=purpose: p)
    assert len(pattern_lists._made[id(where.positions)].lists) <= MOST


@pytest.mark.parametrize("batch", [16, 5])
def test_values_may_become_zero_and_return(batch: int) -> None:
    where = _where()
    x = batch_last(torch.randn(batch, 5, 7, 6))
    grad_y = batch_last(torch.randn(batch, 6, 7, 6))
    values = torch.randn(len(where.positions))
    for zeros in (0.0, 0.5, 0.0, 1.0, 0.2):
        kept = torch.where(torch.rand_like(values) < zeros, 0.0, values)
        weight = _whole(where, kept)
        y = convolution(kernels, CASE, x, kept, where)
        of = Operands(where.positions, where, kept, x, None, grad_y)
        grad_x, _ = gradients(kernels, CASE, of, True, False)
        torch.testing.assert_close(y, F.conv2d(x, weight, None, 1, 1), rtol=1e-4, atol=1e-5)
        expected = F.conv_transpose2d(grad_y, weight, None, 1, 1)
        torch.testing.assert_close(grad_x, expected, rtol=1e-4, atol=1e-5)


def test_infinite_numbers_under_zeros_are_not_read() -> None:
    where = _where()
    x = batch_last(torch.full((16, 5, 7, 6), torch.inf))
    y = convolution(kernels, CASE, x, torch.zeros(len(where.positions)), where)
    assert torch.equal(y, torch.zeros_like(y))


def _whole(where: Pattern, values: Tensor) -> Tensor:
    flat = torch.zeros(torch.Size(where.shape).numel())
    return flat.index_put((where.positions,), values).view(where.shape)
