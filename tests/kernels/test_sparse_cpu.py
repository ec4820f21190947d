"""Numba's sparse operators against the references in float64."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu import norm_sparse_conv2d as kernels
from gemkern.kernels.cpu.machine import streaming
from gemkern.kernels.cpu.machine.lanes import LANES
from gemkern.kernels.reference.batch_last import is_batch_last
from gemkern.kernels.reference.pattern import pattern
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sparse_cases import CASES, Case, Operands, convolution, gradients, operands, results

every_case = pytest.mark.parametrize("name", CASES)
# Images of whole vectors, and of any size.
WHOLE = st.sampled_from([16, 32, 48, 64, 80, 96, 112, 128, 144, 256])
BATCHES = st.one_of(WHOLE, st.integers(0, 20), st.integers(120, 140), st.just(250))


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


CONVOLUTIONS = st.builds(
    Case,
    batch=BATCHES,
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    groups=st.integers(1, 3),
    image=pairs(1, 9),
    kernel=pairs(1, 4),
    stride=pairs(1, 3),
    padding=pairs(0, 3),
    dilation=pairs(1, 3),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)


def assert_same(case: Case, seed: int) -> None:
    of = operands(case, whole=True, seed=seed)
    exact = results(reference, case, of)
    for ours, theirs in zip(results(kernels, case, of.to(torch.float32)), exact, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        assert torch.equal(ours.double(), theirs)


@given(case=CONVOLUTIONS, seed=st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_on_whole_numbers_every_convolution_is_exact(case: Case, seed: int) -> None:
    assume(min(case.output_image) > 0)
    assert_same(case, seed)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alone", [(True, False), (False, True), (False, False)])
def test_a_gradient_alone_is_that_of_both(name: str, alone: tuple[bool, bool]) -> None:
    of = operands(CASES[name], whole=True).to(torch.float32)
    both = gradients(kernels, CASES[name], of, True, True)
    for wanted, one, expected in zip(
        alone, gradients(kernels, CASES[name], of, *alone), both, strict=True
    ):
        assert torch.equal(one, expected) if wanted else one is None


@pytest.mark.parametrize("name", CASES)
def test_on_whole_numbers_results_past_the_caches_are_exact(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(streaming, "STREAMED_FROM", 0)
    case = replace(CASES[name], batch=144)
    if case.inputs * case.outputs:
        assert_same(case, seed=0)


def test_a_bias_may_have_strides() -> None:
    case = Case(batch=32)
    of = operands(case, whole=True).to(torch.float32)
    bias = of.bias.repeat_interleave(2)[::2]
    strided = convolution(kernels, case, of.x, of.values, of.pattern, bias)
    assert torch.equal(strided, results(kernels, case, of).y)


@pytest.mark.parametrize(
    "name", [name for name in CASES if CASES[name].inputs * CASES[name].outputs]
)
def test_on_whole_numbers_the_cases_are_exact(name: str) -> None:
    assert_same(CASES[name], seed=0)


def test_layers_without_channels_are_empty_or_the_bias() -> None:
    case = CASES["no input channels"]
    of = operands(case, whole=True).to(torch.float32)
    ours = results(kernels, case, of)
    assert torch.equal(ours.y, of.bias[:, None, None].expand(ours.y.shape))
    assert ours.x.numel() == ours.values.numel() == 0
    case = CASES["no output channels"]
    ours = results(kernels, case, operands(case, whole=True).to(torch.float32))
    assert ours.y.numel() == ours.values.numel() == 0
    assert not ours.x.any()


@pytest.mark.parametrize("batch", [8, 128])
def test_rounding_errors_are_at_most_twice_those_of_pytorch(batch: int) -> None:
    case = Case(batch, 16, 16, image=(8, 8), density=0.3)
    of = operands(case, whole=False).to(torch.float32)
    exact = results(reference, case, of.to(torch.float64))
    plain = results(reference, case, of)
    for ours, dense, true in zip(results(kernels, case, of), plain, exact, strict=True):
        error = (ours.double() - true).abs().sum()
        assert error <= 2 * (dense.double() - true).abs().sum()


@every_case
def test_images_come_out_batch_last(name: str) -> None:
    ours = results(kernels, CASES[name], operands(CASES[name], whole=True).to(torch.float32))
    assert is_batch_last(ours.y)
    assert is_batch_last(ours.x)


@pytest.mark.parametrize("image", [(7, 5), (1, 1)])
@pytest.mark.parametrize("batch", [20, 300])
def test_results_depend_on_no_number_of_threads(set_threads, image, batch) -> None:
    case = Case(batch, 9, 11, image=image, density=0.3)
    of = operands(case, whole=False).to(torch.float32)
    found = []
    for number in (1, 2, 2):
        set_threads(number)
        found.append(results(kernels, case, of))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("image", [(1, 1), (2, 3), (17, 5)])
def test_results_depend_on_no_dealing(monkeypatch: pytest.MonkeyPatch, image: tuple) -> None:
    case = Case(2 * LANES, 9, 11, image=image, density=0.3)
    of = operands(case, whole=False).to(torch.float32)
    found = []
    for shares in (1, 2, 3, 8, 64):
        monkeypatch.setattr(kernels, "start_threads", lambda shares=shares: shares)
        found.append(results(kernels, case, of))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_results_of_an_image_depend_on_no_other() -> None:
    case = Case(130, 9, 11, image=(7, 5), density=0.3)
    of = operands(case, whole=False).to(torch.float32)
    whole = results(kernels, case, of)
    last = replace(of, x=of.x[127:], grad_y=of.grad_y[127:])
    part = results(kernels, replace(case, batch=3), last)
    assert torch.equal(whole.y[127:], part.y)
    assert torch.equal(whole.x[127:], part.x)


@pytest.mark.parametrize("batch", [3, 32])
def test_values_of_zero_are_left_out(batch: int) -> None:
    case = Case(batch, density=1.0)
    of = operands(case, whole=True).to(torch.float32)
    masked = replace(of, values=of.values * (torch.arange(len(of.values)) % 3 == 0))
    alone = results(reference, case, masked)
    ours = results(kernels, case, masked)
    assert torch.equal(ours.y, alone.y)
    assert torch.equal(ours.x, alone.x)
    off = replace(
        masked, values=torch.zeros_like(masked.values), x=torch.full_like(of.x, torch.nan)
    )
    assert torch.equal(
        convolution(kernels, case, off.x, off.values, off.pattern, off.bias),
        of.bias[None, :, None, None].expand_as(alone.y),
    )
    infinite = replace(off, x=of.x, grad_y=torch.full_like(of.grad_y, torch.inf))
    for wants_values in (False, True):
        found, _ = gradients(kernels, case, infinite, True, wants_values)
        assert not found.any()


def test_denormals_count_if_they_do_for_the_caller(set_threads) -> None:
    set_threads(2)
    case = Case(32, 8, 8, image=(6, 6), density=1.0)
    of = operands(case, whole=True).to(torch.float32)
    tiny = replace(of, values=of.values.abs() * 1e-20, bias=None)
    small = replace(tiny, x=of.x.abs() * 1e-20, grad_y=of.grad_y.abs() * 1e-20)
    kept = results(kernels, case, small)
    assert all(result.any() for result in kept)
    try:
        assert torch.set_flush_denormal(True)
        flushed = results(kernels, case, small)
    finally:
        torch.set_flush_denormal(False)
    assert not any((result.view(torch.int32) & 0x7FFFFFFF).any() for result in flushed)
    assert all(map(torch.equal, results(kernels, case, small), kept))


def test_addresses_pass_two_to_the_31() -> None:
    case = Case(64, 9000, 1, image=(32, 32), kernel=(1, 1), padding=(0, 0))
    active = torch.zeros(1, case.inputs, 1, 1, dtype=torch.bool)
    active[0, -1] = True
    # Memory that is zero and not touched costs nothing.
    x = torch.zeros(case.inputs, *case.image, case.batch).movedim(-1, 0)
    assert x.numel() * x.element_size() > 2**31
    x[:, -1] = torch.randint(-3, 4, (case.batch, *case.image)).float()
    value, where = torch.tensor([3.0]), pattern(active)
    y = convolution(kernels, case, x, value, where)
    assert torch.equal(y[:, 0], 3 * x[:, -1])
    of = Operands(active, where, value, x, None, y)
    _, found = gradients(kernels, case, of, False, True)
    assert torch.equal(found, (3 * x[:, -1] ** 2).sum()[None])


def test_torch_keeps_its_number_of_threads() -> None:
    code = """
import torch
torch.set_num_threads(1)
from gemkern.kernels.cpu.machine.threads import start_threads
assert start_threads() == start_threads() == torch.get_num_threads() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gemkern_is_imported_without_numba() -> None:
    code = "import gemkern, sys; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
