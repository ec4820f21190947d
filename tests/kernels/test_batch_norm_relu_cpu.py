"""Batch norm, residual and ReLU in Numba: near the float64 reference, as near as PyTorch is."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from gemkern.kernels.reference.batch_last import is_batch_last
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from norm_cases import NORMS, Norm, Results, by_kernels, by_modules, operands
from same_bits import same_bits
from torch import Tensor

cpu = import_module("gemkern.kernels.cpu.batch_norm_relu")
reference = import_module("gemkern.kernels.reference.batch_norm_relu")
pytestmark = pytest.mark.usefixtures("guards", "threads")
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
PLAIN = Norm(training=True, relu=True, residual=True, affine=True)
INF, NAN = float("inf"), float("nan")


def farthest(ours: Tensor, exact: Tensor) -> float:
    return (ours.double() - exact).abs().max().item() if ours.numel() else 0.0


def check(norm: Norm, shape: tuple[int, ...], seed: int = 0, centre: float = 3.0) -> None:
    """Compare with float64; the error may be twice that of the module in float32."""
    of = operands(norm, shape, seed, centre)
    ours, theirs = by_kernels(cpu, norm, of.to(torch.float32)), by_modules(norm, of)
    exact = by_kernels(reference, norm, of.to(torch.float64))
    for name, mine, other, right in zip(Results._fields, ours, theirs, exact, strict=True):
        assert (mine is None) == (right is None), name
        if mine is not None:
            # A gradient is what is left of terms as large as grad_y.
            scale = max((t.abs().max().item() for t in (right, of.grad_y) if t.numel()), default=0)
            limit = 2 * farthest(other, right) + 1e-6 * scale + 1e-7
            assert mine.dtype == torch.float32
            assert farthest(mine, right) <= limit, name
    assert is_batch_last(ours.y)
    assert is_batch_last(ours.x)


@every_norm
@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (33, 2, 16, 9), (3, 1, 1, 1)])
def test_any_combination_of_parts(norm: Norm, shape: tuple[int, ...]) -> None:
    check(norm, shape)


@pytest.mark.parametrize("centre", [0.0, 1e2, 1e4])
def test_a_mean_far_from_zero_spoils_no_variance(centre: float) -> None:
    of = operands(PLAIN, (64, 3, 20, 20), centre=centre)
    exact = of.x.double().var((0, 2, 3), correction=0)
    _, mean, invstd = cpu.batch_norm_relu(of.x, None, None, None, None, None, True, 0, 0.0, False)
    # Plain float32 sums of x^2 would be wrong in every digit from 1e4 on.
    torch.testing.assert_close(invstd.double(), exact.rsqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(mean.double(), of.x.double().mean((0, 2, 3)), rtol=1e-7, atol=1e-7)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shape(shape: tuple[int, ...], norm: Norm, seed: int) -> None:
    if norm.training and shape[0] * shape[2] * shape[3] == 1:
        norm = norm._replace(training=False)
    check(norm, shape, seed)


@pytest.mark.parametrize("norm", [PLAIN, PLAIN._replace(training=False)], ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (4, 0, 2, 2), (1, 2, 1, 1), (5, 3)])
def test_empty_single_and_flat(norm: Norm, shape: tuple[int, ...]) -> None:
    of = operands(norm, shape)
    ours, exact = (
        by_kernels(kernels, norm, of.to(dtype))
        for kernels, dtype in ((cpu, torch.float32), (reference, torch.float64))
    )
    for mine, right in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_numbers_that_are_none_stay_in_their_channel(residual: bool) -> None:
    norm = Norm(training=False, relu=True, residual=residual, affine=True)
    of = operands(norm, (5, 4, 3, 3))
    of.x[0, 0, 0, :3] = torch.tensor([NAN, INF, -INF])
    of.grad_y[1, 1, 0, :3] = torch.tensor([NAN, INF, -INF])
    ours = by_kernels(cpu, norm, of.to(torch.float32))
    theirs = by_modules(norm, of.to(torch.float32))
    for mine, other in zip(ours, theirs, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    trained = by_kernels(cpu, norm._replace(training=True), of)
    assert trained.y[:, 0].isnan().all()
    assert not trained.y[:, 1:].isnan().any()


def test_the_bits_depend_on_no_number_of_threads() -> None:
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(by_kernels(cpu, PLAIN, operands(PLAIN, (40, 7, 12, 12))))
    for results in found[1:]:
        assert all(map(same_bits, found[0], results))


def test_other_layouts_and_dtypes() -> None:
    of = operands(PLAIN, (6, 4, 3, 5))
    expected = by_kernels(cpu, PLAIN, of.to(torch.float32))
    spread = of.to(torch.float32)
    spread = spread._replace(
        x=spread.x.contiguous(memory_format=torch.channels_last),
        residual=spread.residual.contiguous(),
        grad_y=spread.grad_y.contiguous(),
    )
    assert all(map(same_bits, by_kernels(cpu, PLAIN, spread), expected))
    wide, exact = (by_kernels(k, PLAIN, of.to(torch.float64)) for k in (cpu, reference))
    assert all(map(same_bits, wide, exact))


def test_operands_do_not_change() -> None:
    of = operands(PLAIN._replace(training=False), (6, 4, 3, 5))
    before = of.to(torch.float32)
    by_kernels(cpu, PLAIN._replace(training=False), of)
    assert all(map(same_bits, of, before))
