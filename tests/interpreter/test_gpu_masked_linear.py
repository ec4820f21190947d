"""masked_linear and its gradients: exact where sums are, else with PyTorch's own rounding errors.

float32 and float16 alone: the interpreter's bfloat16 products are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import launching, matmul
from gemkern.kernels.gpu import masked_linear as gpu
from gemkern.kernels.gpu.matmul import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

# Rows, inputs, outputs: less than a tile, whole tiles, a rest in each dimension.
SIZES = [(1, 1, 1), (5, 7, 3), (64, 64, 64), (70, 40, 72), (67, 131, 65)]
NAMES = ("y", "x", "weight", "scores")
LARGE = (136, 24, 136)
# Long enough to split a sum once LEAST_DEPTH is 64.
LONG = [(7, 200, 5), (200, 8, 16), (16, 16, 200)]
NARROW = [torch.float32, torch.float16]

every_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", NARROW, ids=str)
scored_or_not = pytest.mark.parametrize("scored", [True, False], ids=["scores", "active alone"])
# The fewer processors there are to fill, the larger the tiles.
any_tiles = pytest.mark.parametrize("processors", [1, 2, 132], indirect=True)


@dataclass(frozen=True)
class Operands:
    """What the four functions take."""

    x: Tensor
    weight: Tensor
    scores: Tensor | None
    active: Tensor
    bias: Tensor | None
    grad_y: Tensor

    def to(self, dtype: torch.dtype) -> Operands:
        """Return these with all but the masks in `dtype`."""
        names = ("x", "weight", "bias", "grad_y")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def each(self, change: Callable[[Tensor], Tensor]) -> Operands:
        """Return these with every tensor changed."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return Operands(
            **{name: None if one is None else change(one) for name, one in tensors.items()}
        )


def operands(
    sizes: tuple[int, int, int], scored: bool, *, whole: bool, seed: int = 0, leading: Any = None
) -> Operands:
    """Return operands in float64: normal, or -1, 0 and 1 if `whole`."""
    generator = torch.Generator().manual_seed(seed)
    rows, inputs, outputs = sizes
    leading = (rows,) if leading is None else leading

    def numbers(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scores = torch.rand(outputs, inputs, generator=generator)
    scores[scores > 0.95] = torch.nan
    scores[(scores > 0.8) & (scores < 0.85)] = 0.5
    return Operands(
        x=numbers(*leading, inputs),
        weight=numbers(outputs, inputs),
        scores=scores if scored else None,
        active=torch.rand(outputs, inputs, generator=generator) < 0.7,
        bias=numbers(outputs),
        grad_y=numbers(*leading, outputs),
    )


def results(of: Operands, kernels: Any = gpu) -> list[Tensor]:
    """Return the output and the gradients of input, weight and scores."""
    masked = (of.weight, of.scores, of.active)
    return [
        kernels.masked_linear(of.x, *masked, of.bias),
        kernels.masked_linear_input_grad(of.grad_y, *masked),
        kernels.masked_linear_weight_grad(of.grad_y, of.x, *masked),
        kernels.masked_linear_score_grad(of.grad_y, of.x, of.weight, of.active),
    ]


def as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def assert_exact(
    of: Operands, dtype: torch.dtype, layout: Callable[[Tensor], Tensor] = as_it_is
) -> None:
    """Check that results on small whole numbers in `dtype`, laid out anew, are those in float64."""
    # In this order: a change of dtype closes gaps.
    check_exact(of, of.to(dtype).each(layout), dtype)


def check_exact(of: Operands, narrow: Operands, dtype: torch.dtype) -> None:
    copies = narrow.each(torch.clone)
    ours = results(narrow)
    assert [one.dtype for one in ours] == [dtype, dtype, dtype, torch.float32]
    for name, one, true in zip(NAMES, ours, results(of, reference), strict=True):
        assert one.shape == true.shape, name
        assert torch.equal(one.double(), true), name
    for field in fields(of):
        before, after = getattr(copies, field.name), getattr(narrow, field.name)
        if before is not None:
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def processors(request: pytest.FixtureRequest) -> Iterator[int]:
    with launching.standing_in(launching.INTERPRETER._replace(processors=request.param)):
        yield request.param


@every_size
@every_dtype
@scored_or_not
@any_tiles
def test_small_whole_numbers_are_exact(sizes, dtype, scored, processors) -> None:
    assert_exact(operands(sizes, scored, whole=True), dtype)


@every_dtype
@any_tiles
def test_several_large_tiles_are_exact(dtype, processors) -> None:
    assert_exact(operands(LARGE, True, whole=True), dtype)


@every_size
@every_dtype
@any_tiles
def test_rounding_errors_are_at_most_twice_those_of_pytorch(sizes, dtype, processors) -> None:
    of = operands(sizes, True, whole=False).to(dtype)
    exact = results(of.to(torch.float64), reference)
    for name, ours, plain, true in zip(
        NAMES, results(of), results(of, reference), exact, strict=True
    ):
        error = (ours.double() - true).abs().sum()
        assert error <= 2 * (plain.double() - true).abs().sum() + 1e-6, name


@pytest.mark.parametrize("leading", [(), (2, 3), (2, 0), (0,), (2, 1, 3)], ids=str)
@scored_or_not
def test_x_has_any_number_of_dimensions(leading: tuple[int, ...], scored: bool) -> None:
    of = operands((math.prod(leading), 6, 4), scored, whole=True, leading=leading)
    assert_exact(of, torch.float32)


@pytest.mark.parametrize("sizes", [(0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0), (4, 0, 0)], ids=str)
@scored_or_not
@every_dtype
def test_nothing_to_multiply_gives_bias_or_zeros(sizes, scored: bool, dtype: torch.dtype) -> None:
    assert_exact(operands(sizes, scored, whole=True), dtype)


@every_size
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@scored_or_not
def test_what_is_masked_does_not_leak(sizes, poison: float, scored: bool) -> None:
    of = operands(sizes, scored, whole=True).to(torch.float32)
    mask = of.active if of.scores is None else of.active & (of.scores >= 0.5)
    poisoned = replace(of, weight=torch.where(mask, of.weight, poison))
    for one, other in zip(results(poisoned)[:3], results(of)[:3], strict=True):
        assert torch.equal(one, other)
    frozen = gpu.masked_linear_score_grad(of.grad_y, of.x, poisoned.weight, of.active)[~of.active]
    off = gpu.masked_linear_weight_grad(of.grad_y, of.x, *(of.weight, of.scores, of.active))[~mask]
    for values in (frozen, off):
        assert not values.any()
        assert not values.signbit().any()


def stretched(tensor: Tensor) -> Tensor:
    """Return the values of `tensor` amid others, with gaps and an offset."""
    wide = tensor.repeat_interleave(3, -1).repeat_interleave(2, 0)
    return torch.cat([wide[:1], wide])[1::2, ..., 1::3] if tensor.dim() > 1 else wide[1::6]


def padded(tensor: Tensor) -> Tensor:
    """Return `tensor` with its last dimension in one run, and 8 elements between the runs."""
    return torch.cat([tensor, tensor[..., :8]], -1)[..., : tensor.shape[-1]]


def turned(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


@pytest.mark.parametrize("layout", [stretched, padded, turned], ids=lambda one: one.__name__)
@pytest.mark.parametrize("sizes", [(70, 40, 72), (67, 35, 65)], ids=str)
def test_operands_of_any_strides(layout: Callable[[Tensor], Tensor], sizes) -> None:
    of = operands(sizes, True, whole=True)
    assert_exact(of, torch.float32, layout)
    # One after another, so that no operand's strides are taken for another's.
    narrow = of.to(torch.float32)
    for field in fields(of):
        alone = replace(narrow, **{field.name: layout(getattr(narrow, field.name))})
        check_exact(of, alone, torch.float32)


@pytest.mark.parametrize("sizes", [(16, 8, 24), (7, 5, 3)], ids=str)
def test_operands_of_no_strides(sizes: tuple[int, int, int]) -> None:
    of = operands(sizes, True, whole=True).to(torch.float32)
    one, on = of.x.new_ones(()), torch.ones((), dtype=torch.bool)
    expanded = replace(
        of,
        grad_y=one.expand(of.grad_y.shape),
        x=of.x[:1].expand(of.x.shape),
        weight=of.weight[:, :1].expand(of.weight.shape),
        active=on.expand(of.active.shape),
        bias=one.expand(of.bias.shape),
    )
    check_exact(expanded.to(torch.float64), expanded, torch.float32)


@every_size
def test_a_layer_needs_no_bias(sizes: tuple[int, int, int]) -> None:
    of = replace(operands(sizes, True, whole=True), bias=None)
    masked = (of.weight.float(), of.scores, of.active)
    ours = gpu.masked_linear(of.x.float(), *masked, None)
    true = reference.masked_linear(of.x, of.weight, of.scores, of.active, None)
    assert torch.equal(ours.double(), true)


@pytest.mark.parametrize("weight", [torch.float32, torch.float64])
def test_a_wider_weight_is_rounded_before_it_is_used(weight: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(matmul, "LEAST_DEPTH", 64)
    of = operands((24, 200, 16), True, whole=False)
    of = replace(of, x=of.x.half(), grad_y=of.grad_y.half(), weight=of.weight.to(weight))
    exact = of.to(torch.float64)
    rounded = results(replace(exact, weight=of.weight.half().double()), reference)
    ours = results(of)
    assert [one.dtype for one in ours] == [torch.float16, torch.float16, weight, weight]
    for one, true in zip(ours[:2], rounded[:2], strict=True):
        torch.testing.assert_close(one.double(), true, rtol=1e-3, atol=1e-4)
    # Gradients are not rounded to 16 bits on their way.
    for one, true in zip(ours[2:], results(exact, reference)[2:], strict=True):
        torch.testing.assert_close(one.double(), true, rtol=1e-5, atol=1e-5)


@given(
    sizes=st.tuples(*[st.integers(0, 70)] * 3),
    scored=st.booleans(),
    dtype=st.sampled_from(NARROW),
    layout=st.sampled_from([as_it_is, turned]),
    seed=st.integers(0, 1000),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_sizes(sizes, scored, dtype, layout, seed) -> None:
    assert_exact(operands(sizes, scored, whole=True, seed=seed), dtype, layout)


@pytest.mark.parametrize("sizes", LONG, ids=str)
@pytest.mark.parametrize("layout", [as_it_is, stretched], ids=lambda one: one.__name__)
@every_dtype
@scored_or_not
def test_long_sums_are_split(sizes, layout, dtype, scored, monkeypatch) -> None:
    monkeypatch.setattr(matmul, "LEAST_DEPTH", 64)
    splits = []

    def counted(*arguments: Any) -> tuple[int, int]:
        splits.append(matmul.steps_and_splits(*arguments)[1])
        return matmul.steps_and_splits(*arguments)

    monkeypatch.setattr(gpu, "steps_and_splits", counted)
    assert_exact(operands(sizes, scored, whole=True), dtype, layout)
    assert max(splits) > 1


@pytest.mark.parametrize("sizes", [(5, 1096, 8), (1100, 3, 5)], ids=str)
def test_sums_of_a_thousand_terms_are_split_unasked(sizes: tuple[int, int, int]) -> None:
    assert matmul.steps_and_splits(gpu.STRIDED[0], 8, 8, 1096, 132)[1] == 2
    assert_exact(operands(sizes, True, whole=True), torch.float32)


def test_parts_of_a_sum_may_be_shorter_or_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "LEAST_DEPTH", 1)
    for sizes in [(33, 65, 17), (65, 33, 100), (40, 16, 96)]:
        assert_exact(operands(sizes, True, whole=True), torch.float32)


def test_the_same_operands_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "LEAST_DEPTH", 64)
    of = operands((20, 200, 24), True, whole=False).to(torch.float32)
    for one, other in zip(results(of), results(of), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["x", "grad_y"])
def test_float64_is_refused(name: str) -> None:
    of = operands((4, 5, 3), True, whole=True)
    masked = (of.weight, of.scores, of.active)
    calls = {
        "x": [lambda: gpu.masked_linear(of.x, *masked, of.bias)],
        "grad_y": [
            lambda: gpu.masked_linear_input_grad(of.grad_y, *masked),
            lambda: gpu.masked_linear_weight_grad(of.grad_y, of.x, *masked),
            lambda: gpu.masked_linear_score_grad(of.grad_y, of.x, of.weight, of.active),
        ],
    }
    for call in calls[name]:
        with pytest.raises(NotImplementedError, match="float64"):
            call()


@pytest.mark.parametrize(
    ("wanted", "expected"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")]
)
def test_float32_products_follow_the_setting_of_pytorch(wanted: str, expected: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        assert matmul.precision(torch.float32) == expected
        assert matmul.precision(torch.float16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_parts_cover_a_sum_once() -> None:
    config = Config(block_m=64, block_n=64, block_k=32, warps=4, stages=3)
    for terms in (0, 1, 31, 32, 33, 511, 1024, 5000, 100_000):
        for outputs in (1, 64, 500, 5000):
            steps, splits = matmul.steps_and_splits(config, outputs, 64, terms, 132)
            assert (splits - 1) * steps * 32 < max(1, terms) <= max(1, splits * steps * 32)
            assert splits == 1 or splits * config.tiles(outputs, 64) <= 132
