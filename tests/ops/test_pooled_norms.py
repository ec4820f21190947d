"""A norm with max pooling as one operator: PyTorch's results and gradients, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gemkern import GemkernError, ops

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
EPS = 0.1


def operands() -> list[Tensor]:
    """Return x, mean, var, weight and bias in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [normal(6, 4, 9, 7), normal(4), normal(4).abs() + 0.5, normal(4), normal(4)]


def theirs(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *windows) -> Tensor:
    shape = (1, -1, 1, 1)
    z = (x - mean.view(shape)) * ((var + EPS).rsqrt() * weight).view(shape) + bias.view(shape)
    return F.max_pool2d(z.relu(), *windows)


@BACKENDS
@pytest.mark.parametrize("windows", [(2,), (3, 4), ((2, 3), (2, 4)), ((9, 7), None)], ids=str)
def test_results_and_gradients_are_pytorchs(backend: str, windows: tuple[Any, ...]) -> None:
    wide = operands()
    single = [one.float().requires_grad_() for one in wide]
    y = ops.normalise_max_pool2d(single[0], ops.Norm(*single[1:], EPS), *windows, backend=backend)
    expected = theirs(*(one.requires_grad_() for one in wide), *windows)
    assert ops.is_batch_last(y)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    grad_y = torch.linspace(-1, 2, y.numel()).view(y.shape)
    exact = torch.autograd.grad(expected, wide, grad_y.double())
    for one, true in zip(torch.autograd.grad(y, single, grad_y), exact, strict=True):
        torch.testing.assert_close(one.double(), true, rtol=1e-4, atol=1e-4)


def test_gradients_pass_gradcheck() -> None:
    x, *statistics = (one.requires_grad_() for one in operands())
    x = x[:2, :, :5, :4].detach().requires_grad_()

    def run(x: Tensor, *statistics: Tensor) -> Tensor:
        return ops.normalise_max_pool2d(x, ops.Norm(*statistics, EPS), 2)

    assert torch.autograd.gradcheck(run, [x, *statistics])


def test_a_second_derivative_is_refused() -> None:
    x, *statistics = operands()
    y = ops.normalise_max_pool2d(x.requires_grad_(), ops.Norm(*statistics), 2)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()


X, NORM = torch.zeros(2, 4, 9, 7), ops.Norm(torch.zeros(4), torch.ones(4))
REFUSED = {
    "windows of (3, 2) overlap with stride (2, 2); give a stride of at least the kernel, or use "
    "normalise, then max_pool2d": (X, NORM, (3, 2), 2),
    "windows of (2, 3) overlap with stride (2, 2); give a stride of at least the kernel, or use "
    "normalise, then max_pool2d": (X, NORM, (2, 3), 2),
    "the norm has a residual; use normalise, then max_pool2d": (X, NORM._replace(residual=X), 2),
    "mean of the norm has shape (3,); give (4,), one number for each channel": (
        X, NORM._replace(mean=torch.zeros(3)), 2,
    ),
    "x has shape (2, 4); give (batch, channels, height, width)": (X[:, :, 0, 0], NORM, 2),
    "a window of (10, 10) is larger than the image (9, 7) with padding (0, 0); shrink it": (
        X, NORM, 10,
    ),
    "a window of 17 x 17 pixels is larger than the 256 that a byte can tell apart; use "
    "torch.nn.functional.max_pool2d": (torch.zeros(1, 4, 17, 17), NORM, 17),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_one_sentence(sentence: str) -> None:
    with pytest.raises(GemkernError, match=f"^normalise_max_pool2d: {re.escape(sentence)}$"):
        ops.normalise_max_pool2d(*REFUSED[sentence])
