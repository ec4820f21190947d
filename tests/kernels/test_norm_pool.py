"""The reference of a norm with max pooling, against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.reference.batch_last import is_batch_last
from norm_pool_cases import WINDOWS, Windows, both_passes, gradient_of, operands
from torch import Tensor
from torch.nn import functional as F


def per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_it_agrees_with_autograd(windows: Windows, relu: bool, affine: bool) -> None:
    of = operands(5, 4, 9, 7, affine=affine, whole=False).to(torch.float64)
    leaves = [one.clone().requires_grad_() for one in of if one is not None]
    x, mean, var, *learned = leaves
    z = (x - per_channel(mean)) * per_channel(var.rsqrt())
    if affine:
        z = z * per_channel(learned[0]) + per_channel(learned[1])
    z = z.relu() if relu else z
    expected, indices = F.max_pool2d(z, *windows, return_indices=True)
    y, taps, *grads = both_passes(reference, of, relu, windows)
    torch.testing.assert_close(y, expected)
    corners = torch.arange(y.shape[2])[:, None] * windows.stride[0] * 7
    corners = corners + torch.arange(y.shape[3]) * windows.stride[1]
    within = taps.long()
    rows, columns = within // windows.kernel[1], within % windows.kernel[1]
    assert torch.equal(corners + rows * 7 + columns, indices)
    theirs = torch.autograd.grad(expected, leaves, gradient_of(expected))
    for one, true in zip([g for g in grads if g is not None], theirs, strict=True):
        torch.testing.assert_close(one, true)
    assert (grads[3] is None) == (grads[4] is None) == (not affine)
    assert taps.dtype == torch.uint8
    assert all(map(is_batch_last, (y, taps, grads[0])))
