"""Masked linear layers and convolutions, against plain PyTorch on where(mask, weight, 0).

Straight-through gradients in closed form: Rare Gems (NeurIPS 2022), section 3.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from layer_cases import CASES, Case, Operands, random_operands, whole_operands
from same_bits import bits
from torch import Tensor

CONVOLUTIONS = [case for case in CASES if case.geometry]
NARROW = [torch.float32, torch.float16, torch.bfloat16]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
scored_or_not = pytest.mark.parametrize("scored", [True, False])


class Results(NamedTuple):
    """The output and the gradients of a layer."""

    y: Tensor
    x: Tensor
    weight: Tensor
    scores: Tensor


def by_kernels(case: Case, of: Operands) -> Results:
    kernels = (case.forward, case.input_grad, case.weight_grad, case.score_grad)
    return Results(*(kernel(of) for kernel in kernels))


def by_autograd(case: Case, of: Operands) -> Results:
    """The same from plain PyTorch, the products with mask and weight in closed form."""
    x = of.x.clone().requires_grad_()
    effective = torch.where(of.mask(), of.weight, 0).requires_grad_()
    y = case.plain(x, effective, of.bias)
    grad_x, grad = torch.autograd.grad(y, (x, effective), of.grad_y)
    wide = torch.promote_types(of.weight.dtype, torch.float32)
    product = grad.to(wide) * of.weight.to(wide)
    return Results(
        y.detach(), grad_x, torch.where(of.mask(), grad, 0), torch.where(of.active, product, 0)
    )


@every_case
@scored_or_not
def test_in_float64_all_agree_with_autograd(case: Case, scored: bool) -> None:
    of = random_operands(case, scored)
    for ours, theirs in zip(by_kernels(case, of), by_autograd(case, of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@every_case
@scored_or_not
@pytest.mark.parametrize("dtype", NARROW)
def test_on_small_whole_numbers_all_are_exact_in_any_dtype(case, scored, dtype) -> None:
    of = whole_operands(case, scored)
    exact = by_autograd(case, of)
    ours = by_kernels(case, of.to(dtype))
    assert [result.dtype for result in ours] == [dtype, dtype, dtype, torch.float32]
    for narrow, wide in zip(ours, exact, strict=True):
        assert torch.equal(narrow.double(), wide)


@every_case
@pytest.mark.parametrize("dtype", NARROW)
def test_rounding_errors_are_at_most_twice_those_of_pytorch(case: Case, dtype) -> None:
    of = random_operands(case, scored=True).to(dtype)
    exact = by_autograd(case, of.to(torch.float64))
    for ours, plain, true in zip(by_kernels(case, of), by_autograd(case, of), exact, strict=True):
        error = (ours.double() - true).abs().sum()
        assert error <= 2 * (plain.double() - true).abs().sum() + 1e-7


@every_case
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_masked_does_not_leak(case: Case, poison: float) -> None:
    of = random_operands(case, scored=True).to(torch.float32)
    poisoned = replace(of, weight=torch.where(of.mask(), of.weight, poison))
    assert torch.equal(case.forward(poisoned), case.forward(of))
    assert torch.equal(case.input_grad(poisoned), case.input_grad(of))
    assert torch.equal(case.weight_grad(poisoned), case.weight_grad(of))
    frozen = ~of.active
    assert not bits(case.weight_grad(poisoned))[~of.mask()].any()
    assert not bits(case.score_grad(poisoned))[frozen].any()


@every_case
def test_scores_that_are_off_still_learn_and_frozen_ones_do_not(case: Case) -> None:
    of = random_operands(case, scored=True)
    off = replace(of, scores=torch.zeros(case.weight_shape))
    assert torch.equal(case.score_grad(off), case.score_grad(of))
    assert not bits(case.weight_grad(off)).any()
    nothing = replace(of, active=torch.zeros_like(of.active))
    assert not bits(case.score_grad(nothing)).any()


@every_case
@scored_or_not
def test_operands_wider_than_the_input_are_rounded_to_its_dtype(case: Case, scored: bool) -> None:
    of = random_operands(case, scored).to(torch.float32)
    low = of.to(torch.bfloat16)
    mixed = replace(of, x=low.x, grad_y=low.grad_y)
    ours, narrow = by_kernels(case, mixed), by_kernels(case, low)
    assert torch.equal(ours.y, narrow.y)
    assert torch.equal(ours.x, narrow.x)
    assert ours.weight.dtype == ours.scores.dtype == torch.float32
    assert torch.equal(ours.weight, narrow.weight.float())
    # The product alone is wider: with the weight as it is.
    unit = case.score_grad(replace(mixed, weight=torch.ones_like(of.weight)))
    assert torch.equal(ours.scores, torch.where(of.active, unit * of.weight, 0))


@every_case
def test_a_layer_needs_no_bias(case: Case) -> None:
    of = replace(random_operands(case, scored=True), bias=None)
    torch.testing.assert_close(case.forward(of), by_autograd(case, of).y, rtol=1e-12, atol=1e-12)


@every_case
def test_any_strides_give_the_same_values(case: Case) -> None:
    of = whole_operands(case, scored=True)

    def turned(tensor: Tensor) -> Tensor:
        return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.repeat(2, 1).T[:, 0]

    names = ("x", "weight", "scores", "active", "grad_y", "bias")
    strided = replace(of, **{name: turned(getattr(of, name)) for name in names})
    for ours, expected in zip(by_kernels(case, strided), by_kernels(case, of), strict=True):
        assert torch.equal(ours, expected)


@every_convolution
def test_a_gradient_with_no_strides_is_a_gradient(case: Case) -> None:
    of = whole_operands(case, scored=True)
    ones = of.grad_y.new_ones(())
    expanded = by_kernels(case, replace(of, grad_y=ones.expand(of.grad_y.shape)))
    written = by_kernels(case, replace(of, grad_y=torch.ones_like(of.grad_y)))
    assert all(map(torch.equal, expanded, written))


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
def test_images_keep_their_memory_format(layout: torch.memory_format) -> None:
    case = next(case for case in CONVOLUTIONS if case.name == "3x3")
    of = whole_operands(case, scored=True)
    laid_out = replace(
        of,
        x=of.x.contiguous(memory_format=layout),
        grad_y=of.grad_y.contiguous(memory_format=layout),
    )
    assert case.forward(laid_out).is_contiguous(memory_format=layout)
    assert case.input_grad(laid_out).is_contiguous(memory_format=layout)
    assert torch.equal(case.input_grad(laid_out), case.input_grad(of))
