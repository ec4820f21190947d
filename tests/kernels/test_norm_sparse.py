"""The reference of convolutions with a norm, against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.reference.batch_last import is_batch_last
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from norm_sparse_cases import HOWS, backward, forward, operands
from sparse_cases import CASES, Case
from torch import Tensor
from torch.nn import functional as F

GEOMETRIES = ("3x3", "stride leaves a rest", "stride beyond the kernel", "grouped", "few remain")


def per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_all_agrees_with_autograd(name: str, how) -> None:
    case = CASES[name]
    of = operands(case, how, whole=False)
    learning = ("x", "residual", "mean", "var", "norm_weight", "norm_bias", "values", "added")
    leaves = {n: of[n].clone().requires_grad_() for n in learning if of[n] is not None}
    z = x = leaves["x"]
    if how.norm:
        scale = leaves["var"].rsqrt()
        scale = scale * leaves["norm_weight"] if how.affine else scale
        z = (x - per_channel(leaves["mean"])) * per_channel(scale)
        z = z + per_channel(leaves["norm_bias"]) if how.affine else z
        z = z + leaves["residual"] if how.residual else z
        z = z.relu() if how.relu else z
    weight = torch.zeros(of["pattern"].shape, dtype=torch.float64).flatten()
    weight = weight.index_put((of["pattern"].positions,), leaves["values"])
    y = F.conv2d(z, weight.view(of["pattern"].shape), of["bias"], *case.geometry)
    y = y + leaves["added"] if how.added else y
    found = forward(reference, case, how, of)
    torch.testing.assert_close(found[0], y)
    loss = (y * of["grad_y"]).sum()
    if how.keep:
        torch.testing.assert_close(found[1], z)
        loss = loss + (z * of["grad_z"]).sum()
    if how.skip:
        loss = loss + (x * of["grad_skip"]).sum()
    if how.moments:
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(found[2:], (mean, var))
        loss = loss + (mean * of["grad_mean"]).sum() + (var * of["grad_var"]).sum()
        of["mean_y"] = mean.detach()
    loss.backward()
    grads = backward(reference, case, how, of, y.detach(), found[1])
    assert is_batch_last(found[0])
    assert is_batch_last(grads.x)
    for operand, leaf in leaves.items():
        given = getattr(grads, operand)
        if operand == "added" and not how.moments:
            assert given is None
            given = of["grad_y"]
        torch.testing.assert_close(given, leaf.grad, msg=lambda text, n=operand: f"{n}: {text}")


def test_gradients_that_nobody_wants_are_left_out() -> None:
    case, how = Case(), HOWS["nothing"]
    of = operands(case, how, whole=False)
    grads = reference.norm_sparse_conv2d_backward(
        NormSparse(of["grad_y"], *[None] * 4), *[None] * 3, of["x"], None, of["values"],
        of["pattern"], False, False, False, False, case.geometry,
    )  # fmt: skip
    assert all(gradient is None for gradient in grads)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_a_norm_by_given_statistics_agrees_with_autograd(residual: bool, relu: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, mean, weight, bias = normal(5, 4, 3, 2), normal(4), normal(4), normal(4)
    other = normal(5, 4, 3, 2) if residual else None
    leaves = [x, mean, normal(4).abs(), weight, bias, *([other] if residual else [])]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y = (x - per_channel(mean)) * per_channel((leaves[2] + 0.1).rsqrt() * weight)
    y = y + per_channel(bias) + (other if other is not None else 0)
    y = y.relu() if relu else y
    grad_y = normal(5, 4, 3, 2)
    expected = torch.autograd.grad(y, leaves, grad_y)
    operands = [leaf.detach() for leaf in (mean, leaves[2], weight, bias)]
    still = None if other is None else other.detach()
    norm = Norm(*operands, 0.1, still, relu)
    found = reference.normalise(x.detach(), norm)
    torch.testing.assert_close(found, y)
    grads = reference.normalise_backward(grad_y, found, x.detach(), norm, residual)
    ours = (grads[0], *grads[2:], *([grads[1]] if residual else []))
    for one, true in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, true)
