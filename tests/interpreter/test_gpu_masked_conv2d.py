"""Masked convolutions: exact on small whole numbers, else with errors of at most twice PyTorch's.

float32 and float16 only: the interpreter's tl.dot is wrong on bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from conv2d_cases import (
    CASES,
    Case,
    Geometry,
    by_kernels,
    by_pytorch,
    by_reference,
    operands,
)
from gemkern.kernels.gpu import conv2d_filters, conv2d_images, depthwise_conv2d
from gemkern.kernels.gpu import masked_conv2d as gpu
from gemkern.kernels.gpu.conv2d_tiles import Tile
from gemkern.kernels.gpu.conv2d_walk import input_walk, output_walk
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
FEW = [case for case in CASES if case.name in ("dilated", "grouped", "multiplied depthwise")]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
few_cases = pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def assert_exact(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> None:
    for mine, true in zip(ours, exact, strict=True):
        assert torch.equal(mine.double(), true)


@every_case
@layouts
@dtypes
def test_whole_numbers_are_exact(case: Case, layout: torch.memory_format, dtype) -> None:
    of = operands(case, whole=True)
    ours = by_kernels(of.to(dtype).laid_out(layout), case.geometry)
    assert [result.dtype for result in ours] == [dtype, dtype, dtype, torch.float32]
    assert_exact(ours, by_reference(of, case.geometry))


@few_cases
@layouts
def test_without_scores_the_mask_is_active(case: Case, layout: torch.memory_format) -> None:
    of = operands(case, scored=False, whole=True)
    ours = by_kernels(of.to(torch.float32).laid_out(layout), case.geometry)
    assert_exact(ours, by_reference(of, case.geometry))


@pytest.mark.parametrize("sizes", [((2, 3, 6, 5), (0, 3, 3, 3)), ((2, 0, 6, 5), (4, 0, 3, 3))])
def test_no_channels(sizes: tuple[tuple[int, ...], ...]) -> None:
    # PyTorch's own convolution refuses them.
    x_size, weight_size = sizes
    of = operands(Case("", x_size, weight_size, Geometry())).to(torch.float32)
    ours = by_kernels(of, Geometry())
    assert torch.equal(ours.y, of.bias[:, None, None].expand(2, -1, 4, 3))
    assert torch.equal(ours.x, torch.zeros(x_size))
    assert ours.weight.shape == ours.scores.shape == weight_size


@every_case
@dtypes
def test_errors_are_at_most_twice_those_of_pytorch(case: Case, dtype) -> None:
    of = operands(case).to(dtype)
    exact = by_reference(of.to(torch.float64), case.geometry)
    plain = by_pytorch(of, case.geometry)
    for mine, other, true in zip(by_kernels(of, case.geometry), plain, exact, strict=True):
        error, allowed = ((one.double() - true).abs().sum() for one in (mine, other))
        assert error <= 2 * allowed + 1e-6


@pytest.mark.parametrize("tile", [0, 1], ids=["large", "small"])
@dtypes
def test_every_tile(monkeypatch: pytest.MonkeyPatch, tile: int, dtype) -> None:
    case = Case("", (2, 33, 7, 6), (70, 33, 1, 2), Geometry((1, 2), (0, 1)))
    of = operands(case, whole=True)
    for kernels in (conv2d_images, conv2d_filters):
        chosen = {
            name: replace(tiles, tiles=(tiles.tiles[-tile],))
            for name, tiles in kernels.TILES.items()
        }
        monkeypatch.setattr(kernels, "TILES", chosen)
    assert_exact(by_kernels(of.to(dtype), case.geometry), by_reference(of, case.geometry))


@pytest.mark.parametrize("name", ["pixels of many tiles", "3x3", "depthwise", "grouped"])
@layouts
def test_sums_split_among_many_programs(
    monkeypatch: pytest.MonkeyPatch, name: str, layout: torch.memory_format
) -> None:
    case = next(case for case in CASES if case.name == name)
    monkeypatch.setattr(conv2d_filters, "LEAST_STEPS", 1)
    # Less than the pixels of any case here, so that there is something to split.
    small = Tile(8, 4, 1, warps=4, stages=2)
    monkeypatch.setattr(depthwise_conv2d, "PLANAR_TILE", small)
    monkeypatch.setattr(depthwise_conv2d, "CHANNELS_LAST_TILE", small)
    splits = []
    true_workspace = conv2d_filters.workspace

    def workspace(weight: Tensor, count: int) -> Tensor:
        splits.append(count)
        return true_workspace(weight, count)

    for kernels in (conv2d_filters, depthwise_conv2d):
        monkeypatch.setattr(kernels, "workspace", workspace)
    of = operands(case, whole=True)
    ours = by_kernels(of.to(torch.float32).laid_out(layout), case.geometry)
    assert min(splits) > 1
    assert_exact(ours[2:], by_reference(of, case.geometry)[2:])


def test_splits_are_a_matter_of_shape() -> None:
    split = conv2d_filters.split_steps
    assert split(0, 16, 4) == (0, 4)
    assert split(64, 16, 4) == (1, 4)
    assert split(65, 16, 4) == (2, 4)
    assert split(16 * 4096, 16, 64) == (4, 1024)
    assert split(16 * 4096, 16, 1000) == (1, 4096)


@few_cases
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_masked_does_not_leak(case: Case, poison: float) -> None:
    of = operands(case, whole=True).to(torch.float32)
    of.scores.view(-1)[::5] = math.nan
    poisoned = replace(of, weight=torch.where(of.mask(), of.weight, poison))
    ours, expected = by_kernels(poisoned, case.geometry), by_kernels(of, case.geometry)
    assert_exact(expected, by_reference(of.to(torch.float64), case.geometry))
    assert all(map(torch.equal, ours[:3], expected[:3]))
    assert not ours.scores[~of.active].any()


@few_cases
def test_scores_at_the_threshold_are_on(case: Case) -> None:
    of = operands(case, whole=True)
    below = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    of = replace(of, scores=torch.where(of.scores > 0.4, 0.5, below))
    ours = by_kernels(of.to(torch.float32), case.geometry)
    assert_exact(ours, by_reference(of, case.geometry))


@few_cases
@layouts
def test_weights_and_masks_of_any_memory_order(case: Case, layout: torch.memory_format) -> None:
    of = operands(case, whole=True).to(torch.float32)
    exact = by_reference(of.to(torch.float64), case.geometry)
    turned = of.changed(lambda one: one.contiguous(memory_format=torch.channels_last), "weight")
    ours = by_kernels(turned.laid_out(layout), case.geometry)
    assert_exact(ours, exact)
    assert ours.weight.stride() == ours.scores.stride() == turned.weight.stride()
    masks = of.changed(lambda one: one.mT.contiguous().mT, "scores", "active")
    assert_exact(by_kernels(masks.laid_out(layout), case.geometry), exact)


@few_cases
def test_operands_of_any_stride_and_offset(case: Case) -> None:
    of = operands(case, whole=True).to(torch.float32)
    exact = by_reference(of.to(torch.float64), case.geometry)

    def part(tensor: Tensor) -> Tensor:
        wide = tensor.new_zeros([2 * size + 1 for size in tensor.shape])
        return wide[tuple(slice(1, None, 2) for _ in tensor.shape)].copy_(tensor)

    names = ("x", "weight", "scores", "active", "bias", "grad_y")
    strided = of.changed(part, *names)
    before = [getattr(strided, name).clone() for name in names]
    assert_exact(by_kernels(strided, case.geometry), exact)
    assert all(torch.equal(getattr(strided, n), one) for n, one in zip(names, before, strict=True))
    swapped = of.changed(lambda one: one.mT.contiguous().mT, "x", "grad_y")
    assert_exact(by_kernels(swapped, case.geometry), exact)


@few_cases
def test_a_gradient_with_no_strides_is_a_gradient(case: Case) -> None:
    of = operands(case, whole=True).to(torch.float32)
    expanded = replace(of, grad_y=torch.ones(()).expand(of.grad_y.shape))
    written = replace(of, grad_y=torch.ones_like(of.grad_y))
    exact = by_reference(written.to(torch.float64), case.geometry)
    assert_exact(by_kernels(expanded, case.geometry), exact)


@few_cases
def test_weights_of_another_dtype_are_rounded_to_that_of_the_images(case: Case) -> None:
    of = operands(case).to(torch.float32)
    low = of.to(torch.float16)
    ours = by_kernels(replace(of, x=low.x, grad_y=low.grad_y), case.geometry)
    narrow = by_kernels(low, case.geometry)
    assert torch.equal(ours.y, narrow.y)
    assert torch.equal(ours.x, narrow.x)
    assert ours.weight.dtype == ours.scores.dtype == torch.float32
    assert torch.equal(ours.weight.half(), narrow.weight)


@few_cases
def test_a_layer_needs_no_bias(case: Case) -> None:
    of = replace(operands(case, whole=True), bias=None)
    assert_exact(by_kernels(of.to(torch.float32), case.geometry), by_reference(of, case.geometry))


@few_cases
@layouts
def test_the_same_operands_give_the_same_bits(case: Case, layout: torch.memory_format) -> None:
    of = operands(case).to(torch.float32).laid_out(layout)
    first, second = by_kernels(of, case.geometry), by_kernels(of, case.geometry)
    assert all(map(torch.equal, first, second))


@few_cases
@layouts
def test_images_keep_their_memory_format(case: Case, layout: torch.memory_format) -> None:
    of = operands(case, whole=True).to(torch.float32).laid_out(layout)
    ours = by_kernels(of, case.geometry)
    for written, read in ((ours.y, of.x), (ours.x, of.grad_y)):
        only_last = not read.is_contiguous()
        expected = torch.channels_last if only_last else torch.contiguous_format
        assert written.is_contiguous(memory_format=expected)


def test_float64_is_refused() -> None:
    of = operands(CASES[0])
    geometry = CASES[0].geometry
    for wide in (of, replace(of.to(torch.float32), weight=of.weight)):
        masked = (wide.weight, wide.scores, wide.active)
        calls = (
            lambda m=masked, o=wide: gpu.masked_conv2d(o.x, *m, None, *geometry),
            lambda m=masked, o=wide: gpu.masked_conv2d_input_grad(
                o.grad_y, o.x.shape, *m, *geometry
            ),
            lambda m=masked, o=wide: gpu.masked_conv2d_weight_grad(o.grad_y, o.x, *m, *geometry),
            lambda m=masked, o=wide: gpu.masked_conv2d_score_grad(
                o.grad_y, o.x, m[0], m[2], *geometry
            ),
        )
        for call in calls:
            with pytest.raises(NotImplementedError, match="no float64"):
                call()


def test_more_pixels_or_weights_than_are_counted_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = ((1, 1), (1, 1), (0, 0), (1, 1))
    with pytest.raises(NotImplementedError, match="pixels"):
        output_walk((1, 1, 50_000, 50_000), *pairs)
    with pytest.raises(NotImplementedError, match="pixels"):
        input_walk((1, 1, 50_000, 50_000), (1, 1, 50_000, 50_000), *pairs)
    monkeypatch.setattr(gpu, "MOST_WEIGHTS", 7)
    of = operands(CASES[0]).to(torch.float32)
    with pytest.raises(NotImplementedError, match="weights"):
        by_kernels(of, CASES[0].geometry)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    geometry = Geometry(pair(1, 4), pair(0, 3), pair(1, 3), draw(st.integers(1, 3)))
    kernel, plane = pair(1, 4), pair(1, 9)
    for i in range(2):
        assume(plane[i] + 2 * geometry.padding[i] > geometry.dilation[i] * (kernel[i] - 1))
    channels, filters = draw(st.sampled_from([1, 2, 17])), draw(st.integers(1, 3))
    x_size = (draw(st.integers(1, 2)), channels * geometry.groups, *plane)
    return Case("any", x_size, (filters * geometry.groups, channels, *kernel), geometry)


@given(case=cases(), scored=st.booleans(), layout=st.sampled_from([*LAYOUTS.values()]))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_geometry(case: Case, scored: bool, layout: torch.memory_format) -> None:
    of = operands(case, scored, whole=True)
    ours: Iterable[Tensor] = by_kernels(of.to(torch.float32).laid_out(layout), case.geometry)
    assert_exact(ours, by_reference(of, case.geometry))
