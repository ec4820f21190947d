"""The shortcut without parameters in Numba: the reference's, bit for bit."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.cpu import shortcut as cpu
from gemkern.kernels.reference import shortcut as reference
from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_bits import same_bits
from shortcut_cases import CASES, Case, special
from torch import Tensor

pytestmark = pytest.mark.usefixtures("guards", "threads")


def check(x: Tensor, grad_y: Tensor, stride: tuple[int, int], before: int, after: int) -> None:
    y = cpu.padded_shortcut(x, stride, before, after)
    assert same_bits(y, reference.padded_shortcut(x, stride, before, after))
    grad_x = cpu.padded_shortcut_backward(grad_y, x.shape, stride, before)
    assert same_bits(grad_x, reference.padded_shortcut_backward(grad_y, x.shape, stride, before))
    assert is_batch_last(y)
    assert is_batch_last(grad_x)


def check_special(case: Case, images: int) -> None:
    x = case.special(images)
    check(x, special(*reference.padded_shortcut(x, *case[1:]).shape), *case[1:])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("images", [0, 1, 3, 40])
def test_every_bit_is_copied_and_the_rest_is_zero(case: Case, images: int) -> None:
    check_special(case, images)


@given(
    images=st.integers(0, 20),
    image=st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)),
    stride=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shortcut(
    images: int,
    image: tuple[int, int, int],
    stride: tuple[int, int],
    before: int,
    after: int,
) -> None:
    check_special(Case(image, stride, before, after), images)


def test_other_layouts_strides_and_dtypes() -> None:
    _, stride, before, after = case = CASES[1]
    x = case.special(6)
    grad_y = special(*reference.padded_shortcut(x, *case[1:]).shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = (one.contiguous(memory_format=layout) for one in (x, grad_y))
        check(*given, stride, before, after)
    # Every second image of twice as many, and one gradient for all.
    apart = batch_last(x.repeat_interleave(2, dim=0))[::2]
    check(apart, grad_y[:1, :1, :1, :1].expand_as(grad_y), stride, before, after)
    check(x.double(), grad_y.double(), stride, before, after)
