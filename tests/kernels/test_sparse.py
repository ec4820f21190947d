"""References of the sparse operators, against dense convolutions and autograd in float64."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from gemkern.kernels.reference.pattern import pattern
from sparse_cases import CASES, Case, operands, results
from torch.nn import functional as F

# PyTorch's convolution takes no channels of size 0.
DENSE = [name for name, case in CASES.items() if case.inputs and case.outputs]


@pytest.mark.parametrize("name", DENSE)
def test_all_agree_with_autograd(name: str) -> None:
    case, of = CASES[name], operands(CASES[name], whole=False)
    x, weight = of.x.clone().requires_grad_(), of.weight.requires_grad_()
    y = F.conv2d(x, weight, of.bias, *case.geometry)
    grad_x, grad = torch.autograd.grad(y, (x, weight), of.grad_y)
    expected = (y.detach(), grad_x, grad[of.active])
    for ours, theirs in zip(results(reference, case, of), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DENSE)
def test_images_come_out_batch_last(name: str) -> None:
    ours = results(reference, CASES[name], operands(CASES[name], whole=False))
    assert is_batch_last(ours.y)
    assert is_batch_last(ours.x)


def test_a_linear_layer_agrees_with_autograd() -> None:
    case = Case(batch=5, inputs=7, outputs=6, image=(1, 1), kernel=(1, 1), padding=(0, 0))
    of = operands(case, whole=False)
    active = of.active[:, :, 0, 0]
    x, weight = of.x[:, :, 0, 0].clone().requires_grad_(), of.weight[:, :, 0, 0].requires_grad_()
    y, grad_y, where = F.linear(x, weight, of.bias), of.grad_y[:, :, 0, 0], pattern(active)
    grad_x, grad = torch.autograd.grad(y, (x, weight), grad_y)
    rows = x.detach()
    torch.testing.assert_close(reference.sparse_linear(rows, of.values, where, of.bias), y)
    both = reference.sparse_linear_backward(grad_y, rows, of.values, where, True, True)
    torch.testing.assert_close(both, (grad_x, grad[active]))
    turned = batch_last(rows)
    of_turned = reference.sparse_linear_backward(grad_y, turned, of.values, where, True, False)[0]
    assert of_turned is not None
    assert is_batch_last(of_turned)
    torch.testing.assert_close(of_turned, grad_x)
    assert reference.sparse_linear_backward(grad_y, rows, of.values, where, False, False) == (
        None,
        None,
    )


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (5, 3), (0, 3, 2, 2), (4, 0, 3, 3), (0, 0)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_a_pattern_lists_every_place(shape: tuple[int, ...], density) -> None:
    active = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    where = pattern(active)
    outputs = active.nonzero()[:, 0]
    assert where.shape == shape
    assert torch.equal(where.positions, active.flatten().nonzero().flatten())
    for channel in range(shape[0]):
        entries = range(where.starts[channel], where.starts[channel + 1])
        assert set(outputs[entries].tolist()) <= {channel}
    assert where.starts[-1] == len(where.positions)


def test_batch_last_is_a_matter_of_strides() -> None:
    x = torch.randn(5, 4, 3, 2)
    turned = batch_last(x)
    assert not is_batch_last(x)
    assert turned.stride() == (1, 3 * 2 * 5, 2 * 5, 5)
    assert torch.equal(turned, x)
    assert batch_last(turned) is turned
    assert batch_last(torch.randn(5, 4)).stride() == (1, 5)
