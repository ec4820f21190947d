"""The reference of batch norm, residual and ReLU, against nn.BatchNorm2d in float64."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from norm_cases import NORMS, Norm, by_kernels, by_modules, operands

# By its name as a module: the function is called the same.
reference = import_module("gemkern.kernels.reference.batch_norm_relu")
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
PLAIN = Norm(training=True, relu=True, residual=False, affine=True)


@every_norm
@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (1, 3, 2, 1), (7, 4, 1, 1)])
def test_it_is_the_module_and_its_gradients(norm: Norm, shape: tuple[int, ...]) -> None:
    of = operands(norm, shape).to(torch.float64)
    theirs = by_modules(norm, of)
    for mine, other in zip(by_kernels(reference, norm, of), theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training: bool) -> None:
    of = operands(PLAIN, (3, 2, 2, 2)).to(torch.float64)
    parameters = [
        t.requires_grad_() for t in (of.x, of.residual, of.weight, of.bias) if t is not None
    ]

    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        running = (of.running_mean.clone(), of.running_var.clone())
        return reference.batch_norm_relu(
            x, None, weight, bias, *running, training, 0.1, 1e-5, False
        )[0]

    assert torch.autograd.gradcheck(forward, parameters)


def test_results_are_batch_last_whatever_the_layout_of_x() -> None:
    of = operands(PLAIN, (3, 4, 2, 5))
    expected = by_kernels(reference, PLAIN, of)
    other = operands(PLAIN, (3, 4, 2, 5))
    found = by_kernels(reference, PLAIN, other._replace(x=other.x.contiguous()))
    assert is_batch_last(found.y)
    assert is_batch_last(found.x)
    assert torch.equal(found.y, expected.y)


def test_rows_without_an_image() -> None:
    of = operands(PLAIN, (6, 5))
    flat = by_kernels(reference, PLAIN, of)
    image = operands(PLAIN, (6, 5))
    image = image._replace(x=image.x[..., None, None], grad_y=image.grad_y[..., None, None])
    torch.testing.assert_close(flat.y, by_kernels(reference, PLAIN, image).y[..., 0, 0])
    assert flat.y.stride() == (1, 6)


def test_an_empty_batch_moves_nothing_and_one_value_has_no_spread() -> None:
    empty = operands(PLAIN, (0, 2, 3, 3))
    before = empty.running_mean.clone()
    results = by_kernels(reference, PLAIN, empty)
    assert results.y.shape == (0, 2, 3, 3)
    assert torch.equal(results.running_mean, before)
    assert results.weight is not None
    assert results.weight.tolist() == [0, 0]
    one = operands(PLAIN, (1, 2, 1, 1))
    expected = one.running_var * 0.8
    assert torch.equal(by_kernels(reference, PLAIN, one).running_var, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_activations_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    of = operands(PLAIN, (6, 5, 3, 4))
    narrow = of._replace(x=of.x.to(dtype), grad_y=of.grad_y.to(dtype))
    wide = of._replace(x=narrow.x.float(), grad_y=narrow.grad_y.float())
    y, mean, invstd = reference.batch_norm_relu(*narrow[:-1], False, 0.1, 1e-5, True)
    expected = reference.batch_norm_relu(*wide[:-1], False, 0.1, 1e-5, True)
    assert torch.equal(y, expected[0].to(dtype))
    assert mean.dtype == invstd.dtype == torch.float32


def test_batch_last_is_a_layout_and_no_other_tensor() -> None:
    x = torch.randn(3, 4, 2, 5)
    laid = batch_last(x)
    assert torch.equal(laid, x)
    assert laid.stride() == (1, 30, 15, 3)
    assert batch_last(laid).data_ptr() == laid.data_ptr()
    assert is_batch_last(laid)
    assert not is_batch_last(x)
