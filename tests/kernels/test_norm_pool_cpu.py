"""Numba's norm with max pooling against the reference in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu import normalise, pooling
from gemkern.kernels.cpu import normalise_max_pool2d as cpu
from gemkern.kernels.cpu.machine import streaming
from gemkern.kernels.reference.batch_last import is_batch_last
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from norm_pool_cases import WINDOWS, Operands, Windows, both_passes, gradient_of, operands
from same_bits import same_bits

pytestmark = pytest.mark.usefixtures("guards")
every_window = pytest.mark.parametrize("windows", WINDOWS, ids=str)
SPECIAL = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, 1.0, 2.0])
WIDE = torch.float64


def check(of: Operands, relu: bool, windows: Windows) -> None:
    """Compare what whole numbers, or those that are none, leave exact, with the reference."""
    found = both_passes(cpu, of, relu, windows)
    exact = both_passes(reference, of.to(WIDE), relu, windows)
    for one, true in zip(found, exact, strict=True):
        assert (one is None) == (true is None)
        if one is not None:
            torch.testing.assert_close(one.to(true.dtype), true, rtol=0, atol=0, equal_nan=True)
    y, taps, grad_x = found[:3]
    assert y.dtype == grad_x.dtype == torch.float32
    assert all(map(is_batch_last, (y, taps, grad_x)))


@every_window
@pytest.mark.parametrize("images", [0, 1, 16, 40, 131])
@pytest.mark.parametrize("relu", [True, False])
def test_on_whole_numbers_it_is_exact(
    windows: Windows, images: int, relu: bool, threads: int
) -> None:
    check(operands(images, 5, 9, 7, seed=images), relu, windows)


@every_window
def test_without_weight_and_bias_it_is_exact(windows: Windows) -> None:
    check(operands(20, 4, 9, 7, affine=False), True, windows)


@every_window
def test_gradients_past_the_caches_are_exact(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STREAMED_FROM", 0)
    for images in (16, 48):
        check(operands(images, 4, 9, 7), True, windows)


@every_window
@pytest.mark.parametrize("relu", [True, False])
def test_ties_and_numbers_that_are_none(windows: Windows, relu: bool) -> None:
    drawn = torch.randint(len(SPECIAL), (21, 5, 9, 7), generator=torch.Generator().manual_seed(0))
    of = operands(21, 5, 9, 7)._replace(x=SPECIAL[drawn])
    check(of, relu, windows)
    check(of._replace(x=torch.full((2, 5, 9, 7), -torch.inf)), relu, windows)


@every_window
def test_the_maxima_are_those_of_the_norm_to_the_bit(windows: Windows) -> None:
    of = operands(23, 6, 9, 7, whole=False)
    norm = of.norm(1e-5, True)
    y, taps = cpu.normalise_max_pool2d(of.x, norm, *windows)
    z = normalise.normalise(of.x, norm)
    expected, expected_taps = pooling.max_pool2d(z, *windows, (0, 0))
    assert same_bits(y, expected)
    assert torch.equal(taps, expected_taps)


def test_sums_of_many_gradients_are_exact_enough() -> None:
    of, windows = operands(128, 3, 40, 40, whole=False), WINDOWS[0]
    found = both_passes(cpu, of, True, windows)
    # Of the same maxima: rounding may choose another where two are nearly equal.
    y, taps = found[0].to(WIDE), found[1]
    exact = reference.normalise_max_pool2d_backward(
        gradient_of(y), y, taps, of.to(WIDE).x, of.to(WIDE).norm(0.0, True), *windows
    )
    for one, true in zip(found[2:], exact, strict=True):
        torch.testing.assert_close(one.to(WIDE), true, rtol=1e-5, atol=1e-5)


def test_results_depend_on_no_number_of_threads(set_threads: Any) -> None:
    of, found = operands(50, 7, 33, 9, whole=False), []
    for number in (1, 2, 3):
        set_threads(number)
        found.append(both_passes(cpu, of, True, WINDOWS[0]))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_windows(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    kernel = tuple(data.draw(st.integers(1, size), label="kernel") for size in shape[2:])
    stride = tuple(size + data.draw(st.integers(0, 3), label="apart") for size in kernel)
    relu, affine = (data.draw(st.booleans(), label=name) for name in ("relu", "affine"))
    check(operands(*shape, affine=affine), relu, Windows(kernel, stride))


def test_other_layouts_and_dtypes() -> None:
    of, windows = operands(6, 4, 9, 7), WINDOWS[0]
    found = both_passes(cpu, of, True, windows)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = of._replace(x=of.x.contiguous(memory_format=layout))
        assert all(map(torch.equal, found, both_passes(cpu, given, True, windows)))
    assert of.weight is not None
    spread = of._replace(weight=of.weight.repeat_interleave(2)[::2])
    assert all(map(torch.equal, found, both_passes(cpu, spread, True, windows)))
    wide = both_passes(cpu, of.to(WIDE), True, windows)
    assert all(map(torch.equal, wide, both_passes(reference, of.to(WIDE), True, windows)))
