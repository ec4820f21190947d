"""Linear layers of the CPU backend: exact on whole numbers, in every layout, on any threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu import sparse_linear as kernels
from gemkern.kernels.reference.batch_last import batch_last, is_batch_last
from gemkern.kernels.reference.pattern import Pattern, pattern
from torch import Tensor

SIZES = [(9, 1), (9, 7), (40, 33), (300, 20), (1, 5), (9000, 3), (700, 300)]
BATCHES = [1, 3, 8, 13, 16, 32, 50, 77, 128, 300]


def strided(rows: Tensor) -> Tensor:
    """Return the rows inside wider ones."""
    wide = rows.new_full((rows.shape[0], rows.shape[1] + 3), 7)
    wide[:, 2 : rows.shape[1] + 2] = rows
    return wide[:, 2 : rows.shape[1] + 2]


def backwards(rows: Tensor) -> Tensor:
    """Return the rows in memory that no kernel walks."""
    return torch.stack((rows, rows), dim=2)[:, :, 0]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "batch-last": batch_last,
    "strided": strided,
    "backwards": backwards,
}


class Operands:
    """Whole numbers: sums of them are exact in float32."""

    def __init__(self, batch: int, inputs: int, outputs: int, density: float = 0.4) -> None:
        draw = torch.Generator().manual_seed(batch + inputs + outputs)

        def whole(*shape: int) -> Tensor:
            return torch.randint(-4, 5, shape, generator=draw).float()

        self.where: Pattern = pattern(torch.rand(outputs, inputs, generator=draw) < density)
        # Some of them 0: such entries are passed over, and have gradients all the same.
        self.values = whole(len(self.where.positions))
        self.x, self.grad_y, self.bias = whole(batch, inputs), whole(batch, outputs), whole(outputs)

    def passes(self, module: Any, lay: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x, grad_y = lay(self.x), lay(self.grad_y)
        forward = [
            module.sparse_linear(x, self.values, self.where, bias) for bias in (self.bias, None)
        ]
        operands = grad_y, x, self.values, self.where
        both = module.sparse_linear_backward(*operands, True, True)
        alone = (
            module.sparse_linear_backward(*operands, True, False)[0],
            module.sparse_linear_backward(*operands, False, True)[1],
        )
        return [*forward, *both, *alone]


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_whole_numbers_it_is_exact(layout: str, inputs: int, outputs: int, batch: int) -> None:
    of = Operands(batch, inputs, outputs)
    ours, exact = (of.passes(module, LAYOUTS[layout]) for module in (kernels, reference))
    for mine, expected in zip(ours, exact, strict=True):
        assert torch.equal(mine, expected)
        assert mine.stride() == expected.stride()


# Of few rows there are several parts only where there are many entries.
@pytest.mark.parametrize("sizes", [(300, 200, 100), (1, 700, 300), (7, 700, 300), (50, 700, 300)])
@pytest.mark.parametrize("layout", ["contiguous", "batch-last"])
def test_the_number_of_threads_changes_no_bit(layout: str, sizes: tuple[int, int, int]) -> None:
    of = Operands(*sizes)
    of.x, of.grad_y, of.values = map(torch.randn_like, (of.x, of.grad_y, of.values))
    found = []
    for threads in (1, 2):
        with on_threads(threads):
            found.append(of.passes(kernels, LAYOUTS[layout]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(0, 4, 3), (5, 0, 3), (5, 4, 0)])
def test_layers_of_nothing(batch: int, inputs: int, outputs: int) -> None:
    of = Operands(batch, inputs, outputs)
    ours, exact = (of.passes(module, torch.Tensor.contiguous) for module in (kernels, reference))
    for mine, expected in zip(ours, exact, strict=True):
        assert torch.equal(mine, expected)


def test_an_output_without_entries_is_its_bias() -> None:
    of = Operands(20, 30, 10, density=0.0)
    y = kernels.sparse_linear(of.x, of.values, of.where, of.bias)
    assert torch.equal(y, of.bias.expand(20, 10))
    grad_x, grad_values = kernels.sparse_linear_backward(
        of.grad_y, of.x, of.values, of.where, True, True
    )
    assert grad_x is not None
    assert grad_values is not None
    assert not grad_x.any()
    assert len(grad_values) == 0


@pytest.mark.parametrize("batch", [7, 50, 128])
def test_rounding_errors_are_at_most_twice_those_of_pytorch(batch: int) -> None:
    of = Operands(batch, 256, 64)
    of.x, of.grad_y, of.values = map(torch.randn_like, (of.x, of.grad_y, of.values))
    ours, plain = (of.passes(module, torch.Tensor.contiguous) for module in (kernels, reference))
    of.x, of.grad_y, of.values, of.bias = (
        one.double() for one in (of.x, of.grad_y, of.values, of.bias)
    )
    exact = of.passes(reference, torch.Tensor.contiguous)
    for mine, dense, true in zip(ours, plain, exact, strict=True):
        assert (mine - true).abs().sum() <= 2 * (dense - true).abs().sum()


def test_a_gradient_of_strides_0_is_read() -> None:
    of = Operands(32, 20, 10)
    grad_y = torch.ones(()).expand(32, 10)
    ours = kernels.sparse_linear_backward(grad_y, of.x, of.values, of.where, True, True)
    exact = reference.sparse_linear_backward(grad_y, of.x, of.values, of.where, True, True)
    for mine, expected in zip(ours, exact, strict=True):
        assert mine is not None
        assert expected is not None
        assert torch.equal(mine, expected)


def test_rows_of_batch_last_gradients_lie_so() -> None:
    of = Operands(32, 20, 10)
    grad_x, _ = kernels.sparse_linear_backward(
        of.grad_y, batch_last(of.x), of.values, of.where, True, True
    )
    assert grad_x is not None
    assert is_batch_last(grad_x)
