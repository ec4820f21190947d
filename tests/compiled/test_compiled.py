"""Every kernel, with every configuration that a launcher can choose, compiled for every target."""

from __future__ import annotations

from collections import Counter

import pytest
import triton
from gemkern.kernels.gpu.compiled import TARGETS, Compiled, Target, compile_variant

from benchmarks.compiled import JOBS, Job, kept, read

KEPT = kept()
AGAIN = "run python -m benchmarks.compiled"
PRODUCTS = (
    "masked_product_kernel",
    "gradient_kernel",
    "masked_conv2d_kernel",
    "filter_sums_kernel",
)


def test_no_variant_is_listed_twice() -> None:
    assert [place for place, count in Counter(job.place for job in JOBS).items() if count > 1] == []


def test_the_result_file_has_every_variant_and_no_other() -> None:
    assert set(KEPT) == {job.place for job in JOBS}, AGAIN
    assert read()["versions"]["triton"] == triton.__version__, AGAIN


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.variant.name} on {job.target.name}")
def test_it_fits_the_chip(job: Job) -> None:
    compiled = compile_variant(*job)
    assert compiled.spilled == 0
    assert compiled.shared <= job.target.shared_limit
    assert compiled.registers > 0
    # Masks and scores equal the reference bit for bit, denormal numbers too.
    assert not compiled.flushes
    if job.variant.kind == "elementwise":
        assert compiled.wide == 16
    if job.variant.kind == "matmul":
        assert compiled.matrix
        assert not compiled.exact
    if job.variant.kind == "exact":
        assert compiled.exact
    assert compiled == KEPT.get(job.place), AGAIN


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_every_product_has_variants_that_round_and_exact_ones(kernel: str, target: Target) -> None:
    jobs = [job for job in JOBS if job.variant.kernel.fn.__name__ == kernel]
    kinds = {job.variant.kind for job in jobs if job.target == target}
    assert kinds == {"matmul", "exact"}


@pytest.mark.parametrize(
    ("instruction", "exact"),
    [
        ("v_mfma_f32_32x32x2_f32", True),
        ("v_mfma_f32_32x32x4_xf32", False),
        ("v_mfma_f32_32x32x8_f16", False),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", False),
        ("tcgen05.mma.cta_group::1.kind::tf32", False),
    ],
)
def test_which_instructions_keep_float32_exact(instruction: str, exact: bool) -> None:
    assert Compiled(1, 0, 0, 0, False, matrix=(instruction,)).exact == exact
