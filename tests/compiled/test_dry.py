"""Dry launches: what a GPU will be asked to run compiles for an H100, and is what was kept."""

from __future__ import annotations

import pytest
import torch
import triton
from gemkern.kernels.gpu import masked_linear, threshold
from gemkern.kernels.gpu.dry import H100, H100_TARGET, dry_launches
from gemkern.kernels.gpu.launching import INTERPRETER, chip_of

from benchmarks import result_files
from benchmarks.gpu.compiling import NAME, Job, compile_part, jobs, kept
from benchmarks.gpu.run import CALLS, SECTIONS
from benchmarks.gpu.uses import Use

KEPT = kept()
JOBS = jobs(tuple(SECTIONS))
AGAIN = "run python -m benchmarks.gpu.compiling"
# What has no kernel of ours.
FOREIGN = {"ceilings", "cudnn", "cpu cores", "compiled step", "compiled elementwise"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_it_compiles_and_fits(job: Job) -> None:
    part = compile_part(job, H100_TARGET, H100, there=False)
    assert part.failed == []
    assert {name for name, kernel in KEPT.items() if job.name in kernel.users} == set(part.kernels)
    for name, kernel in part.kernels.items():
        assert kernel._replace(users=KEPT[name].users) == KEPT[name], AGAIN
        assert kernel.spilled == 0
        assert kernel.shared <= H100.shared
        # Masks and scores equal the reference bit for bit, denormal numbers too.
        assert not kernel.flushes


def test_every_kernel_that_is_kept_is_used() -> None:
    assert {user for kernel in KEPT.values() for user in kernel.users} == {job.name for job in JOBS}
    assert result_files.kept(NAME)["versions"]["triton"] == triton.__version__, AGAIN


def test_every_section_has_its_uses() -> None:
    assert {job.name.split(":")[0] for job in JOBS} == set(SECTIONS) - FOREIGN
    first = {name for name, kernel in KEPT.items() if any(map(kernel.serves, CALLS["first"]))}
    assert len(first) < 150, "the first call is to begin soon"


def test_a_dry_launch_runs_nothing() -> None:
    scores, active = torch.rand(1000), torch.ones(1000, dtype=torch.bool)
    out = torch.full((1000,), 7.0)
    with pytest.MonkeyPatch.context() as patch, dry_launches() as compiled:
        patch.setattr(torch, "empty_like", lambda *_, **__: out)
        (weight,) = threshold.effective_weight([scores], [scores], [active])
        assert chip_of(scores.device) == H100
    assert weight is out
    assert (out == 7).all()
    assert len(compiled) == 1
    assert chip_of(scores.device) == INTERPRETER


def test_arguments_are_taken_for_what_they_are() -> None:
    """Numbers that are 1 are constants, and multiples of 16 known to be that."""
    x, weight = torch.empty(33, 64, device="meta"), torch.empty(48, 64, device="meta")
    active = torch.empty(48, 64, dtype=torch.bool, device="meta")
    with dry_launches() as compiled:
        masked_linear.masked_linear(x, weight, None, active, None)
    (name,) = compiled
    assert "M=i32/16, N=i32, K=i32/16" in name
    assert "stride_wk=1" in name
    assert "active=*u1/16" in name


def test_what_is_not_aligned_is_another_kernel() -> None:
    scores, active = torch.rand(33)[1:], torch.ones(32, dtype=torch.bool)
    with dry_launches() as compiled:
        threshold.threshold([scores], [active])
        threshold.threshold([scores.clone()], [active])
    assert ["ALIGNED=False" in name for name in compiled] == [True, False]


def test_a_launcher_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ValueError("no such tile")

    monkeypatch.setattr("benchmarks.gpu.compiling.all_uses", lambda: (Use("step", "x", broken),))
    part = compile_part(Job("step: x", (0,)), H100_TARGET, H100, there=False)
    assert part.failed == ["step, x: ValueError: no such tile"]
