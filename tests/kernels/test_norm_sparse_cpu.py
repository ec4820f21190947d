"""Numba's convolutions with a norm against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu import norm_sparse_conv2d as kernels
from gemkern.kernels.cpu import normalise as norm_kernels
from gemkern.kernels.cpu.machine import streaming
from gemkern.kernels.cpu.machine.lanes import LANES
from gemkern.kernels.cpu.walks import strips
from gemkern.kernels.cpu.walks.dealing import NARROWEST, bands_of, dealt
from gemkern.kernels.cpu.walks.strips import chunks_of
from gemkern.kernels.geometry import Geometry, ring_of, walk_of
from gemkern.kernels.reference.batch_last import is_batch_last
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import pattern
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from norm_sparse_cases import HOWS, How, backward, cast, forward, operands
from sparse_cases import CASES, Case

FULL = [name for name, case in CASES.items() if case.inputs and case.outputs and case.batch]
# Images of the narrowest chunk.
NARROW = NARROWEST * LANES


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


CONVOLUTIONS = st.builds(
    Case,
    batch=st.one_of(st.integers(1, 20), st.sampled_from([32, 64, 96, NARROW, 2 * NARROW + 2])),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    groups=st.integers(1, 3),
    image=pairs(1, 12),
    kernel=pairs(1, 4),
    stride=pairs(1, 3),
    padding=pairs(0, 3),
    dilation=pairs(1, 3),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)


# Caches and lists for which even small layers are walked in each way: along rows; patch by patch,
# in one block and panel; in many of both.
ALONG_ROWS = {"LONG": 2**30, "LONG_BACKWARD": 2**30}
BY_PATCHES = {"LONG": 1, "LONG_BACKWARD": 1, "NEAR_BYTES": 0}
IN_BLOCKS = {**BY_PATCHES, "BLOCK_BYTES": 1, "PANEL_BYTES": 1}
WALKED = {"along rows": ALONG_ROWS, "by patches": BY_PATCHES, "in blocks": IN_BLOCKS}


@contextmanager
def walked(sizes: dict[str, int]) -> Iterator[None]:
    """Let convolutions be cut for such sizes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(strips, name, size)
        strips._cut.cache_clear()
        yield
    strips._cut.cache_clear()


@pytest.fixture
def cache_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return what sets the size of the cache that chunks are cut for."""

    def forget_cuts() -> None:
        strips._cut.cache_clear()

    def set_size(size: int) -> None:
        monkeypatch.setattr(strips, "RING_BYTES", size)
        forget_cuts()

    yield set_size
    forget_cuts()


def assert_exact(case: Case, how: How, seed: int) -> None:
    """Compare all that whole numbers leave exact bit for bit, and the moments closely."""
    of = operands(case, how, whole=True, seed=seed)
    single = cast(of, torch.float32)
    true = forward(reference, case, how, of)
    ours = forward(kernels, case, how, single)
    assert is_batch_last(ours[0])
    for one, exact in zip(ours[:2], true[:2], strict=True):
        assert (one is None) == (exact is None)
        assert one is None or torch.equal(one.double(), exact)
    if how.moments:
        for one, exact in zip(ours[2:], true[2:], strict=True):
            torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=1e-5)
    y = true[0]
    exact_grads = backward(reference, case, how, of, y, true[1])
    grads = backward(kernels, case, how, single, y.float(), ours[1])
    for name, one, exact in zip(grads._fields, grads, exact_grads, strict=True):
        assert (one is None) == (exact is None), name
        if one is not None and one.dim() == 4:
            assert torch.equal(one.double(), exact), name
        elif one is not None and one.numel():
            # Sums over the batch can pass what float32 holds exactly.
            assert (one - exact).abs().max() <= 1e-6 * exact.abs().max(), name


@pytest.mark.parametrize("sizes", WALKED.values(), ids=WALKED)
@given(case=CONVOLUTIONS, how=st.sampled_from(list(HOWS.values())), seed=st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_on_whole_numbers_every_convolution_is_exact(
    sizes: dict[str, int], case: Case, how: How, seed: int
) -> None:
    assume(min(case.output_image) > 0)
    with walked(sizes):
        assert_exact(case, how, seed)


@pytest.mark.parametrize("sizes", WALKED.values(), ids=WALKED)
@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_on_whole_numbers_the_cases_are_exact(name: str, how: How, sizes: dict[str, int]) -> None:
    with walked(sizes):
        assert_exact(CASES[name], how, seed=0)


@pytest.mark.parametrize("sizes", WALKED.values(), ids=WALKED)
@pytest.mark.parametrize("vectors", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_on_whole_numbers_whole_vectors_are_exact(
    how: How, vectors: int, sizes: dict[str, int]
) -> None:
    with walked(sizes):
        assert_exact(Case(batch=vectors * LANES, image=(3, 11)), how, seed=0)


@pytest.mark.parametrize("width", [1, 2, 5, 8, 15, 16, 17, 33])
@pytest.mark.parametrize("stride", [1, 2])
def test_on_whole_numbers_patches_of_all_sizes_are_exact(width: int, stride: int) -> None:
    case = Case(3 * LANES + 1, 7, 5, image=(3, width), stride=(1, stride), density=0.5)
    with walked(IN_BLOCKS):
        assert_exact(case, HOWS["norm and ReLU"], seed=0)


@pytest.mark.parametrize("batch", [3, 5 * LANES, 130])
def test_the_way_entries_are_walked_changes_no_sum(batch: int) -> None:
    case, how = Case(batch, 9, 11, image=(7, 18), density=0.5), HOWS["norm and ReLU"]
    of = cast(operands(case, how, whole=False), torch.float32)
    found = []
    for sizes in WALKED.values():
        with walked(sizes):
            y, z, *_ = forward(kernels, case, how, of)
            found.append([y, backward(kernels, case, how, of, y, z).x])
    assert_alike(found)


@pytest.mark.parametrize("batch", [1, 5, LANES, 130])
@pytest.mark.parametrize("how", ["everything", "residual"])
@pytest.mark.parametrize("image", [(17, 3), (12, 8), (7, 7), (16, 16)])
def test_on_whole_numbers_rows_without_neighbours_are_exact(
    image: tuple[int, int], how: str, batch: int
) -> None:
    assert_exact(Case(batch, 5, 4, kernel=(1, 1), padding=(0, 0), image=image), HOWS[how], seed=0)


def test_rows_are_joined_where_no_pixel_reads_a_neighbour() -> None:
    geometry = Geometry()
    walk, size = strips.walked((2, 3, 16, 12), (4, 3, 1, 1), geometry)
    assert (walk.height, walk.width, walk.out_height, walk.out_width) == (8, 24, 8, 24)
    assert size == (2, 4, 16, 12)
    large, _ = strips.walked((1024, 3, 16, 12), (4, 3, 1, 1), geometry)
    assert (large.height, large.width) == (16, 12)
    for shape, other in (((4, 3, 1, 3), geometry), ((4, 3, 1, 1), Geometry((1, 2)))):
        walk, _ = strips.walked((2, 3, 16, 12), shape, other)
        assert (walk.height, walk.width) == (16, 12)


def test_long_lists_are_cut_into_blocks_that_the_cache_holds() -> None:
    walk = walk_of((128, 64, 8, 8), (64, 64, 3, 3), Geometry(padding=(1, 1)))
    dense = strips.forward_cut(1, False, pattern(torch.ones(64, 64, 3, 3, dtype=torch.bool)), walk)
    assert dense.blocks > 1
    assert dense.layout[0] < walk.batch
    few = torch.zeros(64, 64, 3, 3, dtype=torch.bool)
    few[:, 0] = True
    short = strips.forward_cut(1, False, pattern(few), walk)
    assert short.layout == (walk.batch, walk.width, 1, 0)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_on_whole_numbers_chunks_of_a_batch_are_exact(
    cache_of: Callable[[int], None], how: How, stride: tuple[int, int]
) -> None:
    cache_of(0)
    case = Case(2 * LANES + 3, image=(16, 5), stride=stride)
    ring = ring_of(
        walk_of((case.batch, 3, 16, 5), (4, 3, 3, 3), case.geometry), False, False, False
    )
    assert [images for _, images in chunks_of(case.batch, 8, ring)] == [LANES, LANES, 3]
    assert_exact(case, how, seed=0)


@pytest.mark.parametrize("batch", [LANES, 3 * LANES, 9 * LANES])
@pytest.mark.parametrize("name", ["3x3", "stride leaves a rest", "grouped"])
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_on_whole_numbers_results_past_the_caches_are_exact(
    monkeypatch: pytest.MonkeyPatch, name: str, how: How, batch: int
) -> None:
    monkeypatch.setattr(streaming, "STREAMED_FROM", 0)
    assert_exact(replace(CASES[name], batch=batch), how, seed=0)


def test_only_large_results_of_whole_aligned_vectors_go_past_the_caches() -> None:
    large = torch.empty(streaming.STREAMED_FROM // 4 + 16)
    aligned = large[-large.data_ptr() % 64 // 4 :][: streaming.STREAMED_FROM // 4]
    assert streaming.streams(aligned.view(128, -1, 1, 1))
    assert not streaming.streams(aligned[:-128].view(128, -1, 1, 1))
    shifted = large[aligned.storage_offset() + 1 :][: len(aligned)]
    assert not streaming.streams(shifted.view(128, -1, 1, 1))
    assert not streaming.streams(aligned.view(2, -1, 1, 1))


def assert_alike(found: list[list[Any]]) -> None:
    """Compare lists of tensors, or None, bit for bit."""
    for other in found[1:]:
        assert all(
            a is b is None or torch.equal(a, b) for a, b in zip(found[0], other, strict=True)
        )


@pytest.mark.parametrize(("batch", "density"), [(20, 0.3), (130, 0.3), (144, 0.05)])
@pytest.mark.parametrize("how", ["everything", "before activation, kept", "before activation"])
def test_results_depend_on_no_number_of_threads(
    set_threads, how: str, batch: int, density: float
) -> None:
    case = Case(batch, 9, 11, image=(18, 5), density=density)
    of = cast(operands(case, HOWS[how], whole=False), torch.float32)
    found: list[list[Any]] = []
    for number in (1, 2, 2):
        set_threads(number)
        y, z, *moments = forward(kernels, case, HOWS[how], of)
        found.append([y, z, *moments, *backward(kernels, case, HOWS[how], of, y, z)])
    assert_alike(found)


@pytest.mark.parametrize("how", ["everything", "before activation"])
def test_results_depend_on_no_dealing(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    case = Case(2 * NARROW + 3 * LANES, 9, 11, image=(18, 5), density=0.05)
    of = cast(operands(case, HOWS[how], whole=False), torch.float32)
    found: list[list[Any]] = []
    for shares in (1, 2, 3, 8, 64):
        monkeypatch.setattr(kernels, "start_threads", lambda shares=shares: shares)
        y, z, *moments = forward(kernels, case, HOWS[how], of)
        found.append([y, z, *moments, *backward(kernels, case, HOWS[how], of, y, z)])
    assert_alike(found)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8, 32])
def test_every_part_is_dealt_once(threads: int) -> None:
    for chunks in (0, 1, 2, 5):
        for bands in (1, 2, 8):
            shares = list(dealt(chunks, bands, threads))
            parts = [
                (chunk, band)
                for share in shares
                for chunk, first, last in share
                for band in range(first, last)
            ]
            assert len(shares) == threads
            assert sorted(parts) == [(c, b) for c in range(chunks) for b in range(bands)]
            sizes = [sum(last - first for _, first, last in share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize(("batch", "density"), [(77, 1.0), (96, 1.0), (96, 0.1)])
def test_moments_are_as_exact_as_pytorchs(
    offset: float, added: bool, batch: int, density: float
) -> None:
    how = How(norm=False, relu=False, bias=True, added=added)
    case = Case(batch, 6, 8, image=(20, 9), density=density)
    of = operands(case, how, whole=False)
    of["added" if added else "bias"] += offset
    y, _, mean, var = forward(kernels, case, how, cast(of, torch.float32))
    exact = y.double()
    true = (exact.mean((0, 2, 3)), exact.var((0, 2, 3), unbiased=False))
    # As batch norm finds them, with sums in float64.
    norm = torch.native_batch_norm(y.contiguous(), None, None, None, None, True, 0.1, 0.0)
    theirs = (norm[1], norm[2].double() ** -2)
    for ours, other, exactly in zip((mean, var), theirs, true, strict=True):
        error, allowed = (ours - exactly).abs().max(), (other - exactly).abs().max()
        assert error <= 2 * allowed + 2e-7 * exactly.abs().max()


def test_a_nan_stays_one_in_its_image_and_passes_its_gradient() -> None:
    case, how = Case(20, 3, 4, density=1.0), HOWS["norm and ReLU"]
    of = cast(operands(case, how, whole=True), torch.float32)
    of["x"][3, 0, 2, 2] = torch.nan
    y, *_, mean, var = forward(kernels, case, how, of)
    assert y[3].isnan().any()
    assert not y[:3].isnan().any()
    assert mean[0].isnan()
    assert var[0].isnan()
    grads = backward(kernels, case, how, of, y, None)
    exact = backward(reference, case, how, of, y, None)
    assert torch.equal(grads.x.isnan(), exact.x.isnan())


def test_strips_cover_images_and_rows_once() -> None:
    for batch in (0, 1, 15, 16, 17, 100, 128, 250):
        walk = walk_of((batch, 64, 32, 32), (64, 64, 3, 3), Geometry(padding=(1, 1)))
        ring = ring_of(walk, False, False, False)
        chunks = chunks_of(batch, 32, ring)
        covered = [one for first, images in chunks for one in range(first, first + images)]
        assert covered == list(range(batch))
    for steps in range(1, 70):
        for chunks in (1, 2, 8):
            bands = bands_of(steps, chunks)
            assert (bands[0], bands[-1]) == (0, steps)
            assert (bands[1:] > bands[:-1]).all()


@pytest.mark.parametrize(("cache", "chunks"), [(2_500_000, 3), (7_000_000, 2), (20_000_000, 1)])
def test_wide_layers_are_cut_into_chunks(
    cache: int, chunks: int, cache_of: Callable[[int], None]
) -> None:
    batch = 2 * LANES + 4
    case = Case(batch, 600, 3, image=(2, 40), density=0.01)
    ring = ring_of(walk_of((batch, 600, 2, 40), (3, 600, 3, 3), case.geometry), False, False, False)
    cache_of(cache * LANES // 8)
    assert len(chunks_of(batch, 2, ring)) == chunks
    assert_exact(case, HOWS["norm and ReLU"], seed=0)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(128, 3, 32, 8), (7, 5, 3, 2), (16, 2), (0, 3, 2, 2)])
def test_on_whole_numbers_the_norm_is_exact(residual: bool, relu: bool, shape) -> None:
    how = How(residual=residual, relu=relu)
    image = shape[2:] or (1, 1)
    of = operands(Case(shape[0], shape[1], 2, image=image), how, whole=True)
    names = ("x", "residual", "mean", "var", "norm_weight", "norm_bias")
    found = []
    for module, dtype in ((norm_kernels, torch.float32), (reference, torch.float64)):
        x, other, *statistics = (
            one if one is None or one.dim() == 1 else one.view(shape).to(dtype)
            for one in cast({name: of[name] for name in names}, dtype).values()
        )
        norm = Norm(*statistics, 0.0, other, relu)
        y = module.normalise(x, norm)
        grad_y = torch.arange(y.numel()).remainder(7).sub(3).to(dtype).view(shape)
        grads = module.normalise_backward(grad_y, y, x, norm, residual)
        found.append([y, *grads])
    for one, exact in zip(*found, strict=True):
        assert (one is None) == (exact is None)
        assert one is None or torch.equal(one.double(), exact)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("batch", [LANES, LANES + 1])
def test_only_a_relu_closes_what_is_minus_infinite(batch: int, keep: bool, relu: bool) -> None:
    case, how = Case(batch=batch), How(affine=False, keep=keep, relu=relu, moments=False)
    of = cast(operands(case, how, whole=True), torch.float32)
    of["x"][0, 0, 1, 1] = -torch.inf
    y, z, _, _ = forward(reference, case, how, of)
    ours, true = (backward(module, case, how, of, y, z) for module in (kernels, reference))
    assert ours.x is not None
    assert true.x is not None
    assert torch.equal(ours.x, true.x)
    assert bool(true.x[0, 0, 1, 1]) is not relu
