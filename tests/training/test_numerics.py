"""The floating-point environment of a run: flushed inside, as it was after."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from gemkern.training.numerics import reproducible_numerics

DENORMAL = 1e-40


def flushes() -> bool:
    return (torch.tensor(DENORMAL) * 1.0).item() == 0.0


@pytest.fixture(autouse=True)
def _ordinary_numbers() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


def run(fails: bool) -> None:
    with reproducible_numerics():
        assert flushes()
        if fails:
            raise KeyboardInterrupt


def interrupted(fails: bool) -> AbstractContextManager[object]:
    return pytest.raises(KeyboardInterrupt) if fails else nullcontext()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_inside_and_treated_as_before_after(
    before: bool, fails: bool
) -> None:
    torch.set_flush_denormal(before)
    with interrupted(fails):
        run(fails)
    assert flushes() is before


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [(True, True, False), (False, False, True)])
def test_cudnn_is_deterministic_inside_and_as_before_after(
    before: tuple[bool, bool, bool], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic

    for flag, value in zip(("enabled", "benchmark", "deterministic"), before, strict=True):
        monkeypatch.setattr(torch.backends.cudnn, flag, value)
    with interrupted(fails), reproducible_numerics():
        assert state() == (True, False, True)
        if fails:
            raise KeyboardInterrupt
    assert state() == before


def test_a_run_inside_a_run_leaves_the_outer_one_flushing() -> None:
    with reproducible_numerics():
        run(fails=False)
        assert flushes()
    assert not flushes()


def test_another_thread_keeps_its_own_numbers() -> None:
    with ThreadPoolExecutor(1) as other:
        assert not other.submit(flushes).result()
        with reproducible_numerics():
            assert not other.submit(flushes).result()
        other.submit(run, fails=False).result()
        assert not other.submit(flushes).result()
