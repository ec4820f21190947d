"""The reference of pooling, against nn modules and their gradients in float64."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.reference import pooling
from gemkern.kernels.reference.batch_last import is_batch_last
from pooling_cases import WINDOWS, Window
from torch import nn

every_window = pytest.mark.parametrize("window", WINDOWS, ids=str)
SHAPE = (3, 4, 9, 7)


def image() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_window
@pytest.mark.parametrize("include", [True, False])
def test_average_pooling_is_the_module(window: Window, include: bool) -> None:
    x = image().requires_grad_()
    expected = nn.AvgPool2d(*window, count_include_pad=include)(x)
    grad_y = torch.randn_like(expected)
    expected.backward(grad_y)
    y = pooling.average_pool2d(x.detach(), *window, include)
    grad_x = pooling.average_pool2d_backward(grad_y, SHAPE, *window, include)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(grad_x, x.grad)
    assert is_batch_last(y)
    assert is_batch_last(grad_x)


@every_window
def test_max_pooling_is_the_module(window: Window) -> None:
    x = image().requires_grad_()
    expected = nn.MaxPool2d(*window)(x)
    grad_y = torch.randn_like(expected)
    expected.backward(grad_y)
    y, taps = pooling.max_pool2d(x.detach(), *window)
    grad_x = pooling.max_pool2d_backward(grad_y, taps, SHAPE, *window)
    assert torch.equal(y, expected)
    torch.testing.assert_close(grad_x, x.grad)
    assert taps.dtype == torch.uint8
    assert all(map(is_batch_last, (y, taps, grad_x)))


def test_the_first_of_equals_and_the_last_nan_count() -> None:
    x = torch.tensor([[[[1.0, 1, 2, 2], [1, 1, torch.nan, torch.nan]]]])
    y, taps = pooling.max_pool2d(x, (2, 2), (2, 2), (0, 0))
    assert taps.tolist() == [[[[0, 3]]]]
    assert y[0, 0, 0, 1].isnan()
