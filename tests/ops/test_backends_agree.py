"""Where numbers end, or there are none, every backend still says the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gemkern import ops

BACKENDS = ("cpu", "reference")


def of_each(run: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
    ours, reference = (run(backend) for backend in BACKENDS)
    return ours, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_padded_counts_as_zeros(value: float, dtype: torch.dtype) -> None:
    active = torch.zeros(3, 2, 3, 3, dtype=torch.bool)
    active[0, 0, 0, 0] = active[1, 1, 1, 1] = True
    x, values = torch.ones(5, 2, 4, 4, dtype=dtype), torch.tensor([value, 2.0], dtype=dtype)
    ours, reference = of_each(
        lambda backend: ops.sparse_conv2d(
            x, values, ops.pattern(active), padding=1, backend=backend
        )
    )
    assert torch.equal(ours.nan_to_num(nan=7), reference.nan_to_num(nan=7))
    assert reference[:, 0, 0].isnan().all()
    assert not reference[:, 1:].isnan().any()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_layers_without_inputs(groups: int, biased: bool) -> None:
    where = ops.pattern(torch.zeros(4, 0, 3, 3, dtype=torch.bool))
    bias = torch.randn(4) if biased else None

    def run(backend: str) -> Tensor:
        return ops.sparse_conv2d(
            torch.ones(2, 0, 5, 4), torch.zeros(0), where, bias, 2, 1, 1, groups, backend=backend
        )

    ours, reference = of_each(run)
    assert ours.shape == (2, 4, 3, 2)
    assert torch.equal(ours, reference)


@pytest.mark.parametrize("groups", [1, 2])
def test_masked_layers_without_inputs(groups: int) -> None:
    weight, bias = torch.zeros(4, 0, 3, 3), torch.randn(4)
    active = torch.ones(weight.shape, dtype=torch.bool)
    y = ops.masked_conv2d(torch.ones(2, 0, 5, 4), weight, None, active, bias, 2, 1, 1, groups)
    assert torch.equal(y, bias.view(4, 1, 1).expand(2, 4, 3, 2))


@pytest.mark.parametrize("shape", [(0, 2), (4, 0), (0, 0)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_layers_without_channels(shape: tuple[int, int], backend: str) -> None:
    active = torch.ones(*shape, 3, 3, dtype=torch.bool)
    x, weight = torch.randn(2, shape[1], 5, 5), torch.randn(active.shape)
    for run, learns in (
        (lambda x, w: ops.masked_conv2d(x, w, None, active, padding=1), weight),
        (lambda x, w: ops.sparse_conv2d(x, w, ops.pattern(active), padding=1, backend=backend),
         weight.flatten()),
    ):  # fmt: skip
        leaves = x.clone().requires_grad_(), learns.clone().requires_grad_()
        y = run(*leaves)
        assert y.shape == (2, shape[0], 5, 5)
        for grad, leaf in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
            assert grad.shape == leaf.shape
            assert not grad.any()


def test_what_is_kept_does_not_depend_on_outputs() -> None:
    where, x = ops.pattern(torch.ones(0, 2, 3, 3, dtype=torch.bool)), torch.randn(3, 2, 5, 5)
    norm = ops.Norm(torch.zeros(2), torch.ones(2))
    kept = [
        ops.norm_sparse_conv2d(x, torch.ones(0), where, norm=norm, keep=True, backend=backend).z
        for backend in BACKENDS
    ]
    torch.testing.assert_close(*kept)


def test_nothing_has_no_moments() -> None:
    where = ops.pattern(torch.ones(3, 2, 3, 3, dtype=torch.bool))
    for of_each_moment in zip(
        *(
            ops.norm_sparse_conv2d(
                torch.ones(0, 2, 4, 4), torch.ones(54), where, padding=1, moments=True,
                backend=backend,
            )[2:4]
            for backend in BACKENDS
        ),
        strict=True,
    ):  # fmt: skip
        for moment in of_each_moment:
            assert moment.isnan().all()
            assert moment.shape == (3,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_has_no_gradient(backend: str) -> None:
    scores = torch.randn(5, requires_grad=True)
    active = torch.ones(5, dtype=torch.bool)
    for one in ops.select_kth([scores], [active], torch.tensor(2), backend=backend):
        assert not one.requires_grad
