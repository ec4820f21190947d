"""Pooling in Numba: maxima to the bit, averages near the float64 reference."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.cpu import pooling as cpu
from gemkern.kernels.reference import pooling as reference
from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pooling_cases import WINDOWS, Window
from same_bits import same_bits
from torch import Tensor

pytestmark = pytest.mark.usefixtures("guards", "threads")
every_window = pytest.mark.parametrize("window", WINDOWS, ids=str)
INF, NAN = float("inf"), float("nan")
SPECIAL = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.0, 1.0, 2.0])


def image(*shape: int, seed: int = 0) -> Tensor:
    return batch_last(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def check_average(x: Tensor, window: Window, include: bool) -> None:
    exact = reference.average_pool2d(x.double(), *window, include)
    y = cpu.average_pool2d(x, *window, include)
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-6)
    grad_y = image(*y.shape, seed=1)
    grad_x = cpu.average_pool2d_backward(grad_y, x.shape, *window, include)
    exact = reference.average_pool2d_backward(grad_y.double(), x.shape, *window, include)
    torch.testing.assert_close(grad_x.double(), exact, rtol=1e-6, atol=1e-6)
    assert y.dtype == grad_x.dtype == torch.float32
    assert is_batch_last(y)
    assert is_batch_last(grad_x)


def check_maximum(x: Tensor, window: Window) -> None:
    y, taps = cpu.max_pool2d(x, *window)
    expected, expected_taps = reference.max_pool2d(x, *window)
    assert torch.equal(taps, expected_taps)
    assert torch.equal(y.isnan(), expected.isnan())
    assert same_bits(y.nan_to_num(7), expected.nan_to_num(7))
    # Of small integers every sum is exact.
    grad_y = image(*y.shape, seed=1).mul(4).round()
    grad_x = cpu.max_pool2d_backward(grad_y, taps, x.shape, *window)
    assert torch.equal(grad_x, reference.max_pool2d_backward(grad_y, taps, x.shape, *window))
    assert all(map(is_batch_last, (y, taps, grad_x)))


@every_window
@pytest.mark.parametrize("images", [1, 3, 40])
def test_averages(window: Window, images: int) -> None:
    for include in (True, False):
        check_average(image(images, 4, 9, 7), window, include)


@every_window
@pytest.mark.parametrize("images", [1, 3, 40])
def test_maxima(window: Window, images: int) -> None:
    check_maximum(image(images, 4, 9, 7), window)


@every_window
def test_ties_and_numbers_that_are_none(window: Window) -> None:
    drawn = torch.randint(len(SPECIAL), (21, 5, 9, 7), generator=torch.Generator().manual_seed(0))
    check_maximum(batch_last(SPECIAL[drawn]), window)
    check_maximum(torch.full((20, 3, 9, 7), -INF), window)


def test_a_gradient_that_is_no_number_goes_where_the_maximum_was() -> None:
    y, taps = cpu.max_pool2d(image(3, 1, 2, 2), (2, 2), (2, 2), (0, 0))
    grad_x = cpu.max_pool2d_backward(
        torch.full_like(y, INF), taps, (3, 1, 2, 2), (2, 2), (2, 2), (0, 0)
    )
    assert sorted(grad_x[0].flatten().tolist()) == [0, 0, 0, INF]


@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_window(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    kernel = tuple(data.draw(st.integers(1, size), label="kernel") for size in shape[2:])
    stride = tuple(data.draw(st.integers(1, 4), label="stride") for _ in kernel)
    padding = tuple(data.draw(st.integers(0, size // 2), label="padding") for size in kernel)
    window = Window(kernel, stride, padding)
    x = image(*shape).mul(2).round()
    check_maximum(x, window)
    check_average(x, window, data.draw(st.booleans(), label="include"))


def test_other_layouts_and_dtypes() -> None:
    window, x = WINDOWS[2], image(20, 4, 9, 7)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        assert same_bits(cpu.max_pool2d(given, *window)[0], cpu.max_pool2d(x, *window)[0])
        assert same_bits(
            cpu.average_pool2d(given, *window, True), cpu.average_pool2d(x, *window, True)
        )
    wide = x.double()
    assert torch.equal(cpu.max_pool2d(wide, *window)[0], reference.max_pool2d(wide, *window)[0])
