"""What makes the CPU kernels worth having is still there: ratios of speed stay above bounds."""

from __future__ import annotations

import pytest
import torch
from untraced import untraced

from benchmarks import regressions, score_steps
from benchmarks.cpu_timing import Call
from benchmarks.regressions import ATTEMPTS, BOUNDS, MAKERS, measure, ratio


def _work(numbers: int) -> Call:
    x = torch.rand(numbers)
    return lambda: x.sin().sum()


@pytest.mark.parametrize("name", MAKERS)
def test_no_speed_is_lost(name: str) -> None:
    with untraced():
        assert measure(name) >= BOUNDS[name]


def test_every_ratio_has_a_bound_that_means_faster() -> None:
    assert BOUNDS.keys() == MAKERS.keys()
    assert min(BOUNDS.values()) > 1


def test_the_fastest_rival_counts() -> None:
    contenders = {"ours": _work(10_000), "slow": _work(800_000), "fast": _work(100_000)}
    assert 3 < ratio(contenders, "ours", seconds=0.1) < 30


def test_a_contender_that_became_slow_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = {"ours": _work(100_000), "rival": _work(100_000)}
    ratios: list[float] = []

    def noted(*arguments: object) -> float:
        ratios.append(ratio(*arguments, seconds=0.1))
        return ratios[-1]

    monkeypatch.setitem(MAKERS, "slow", ("ours", lambda: contenders))
    monkeypatch.setitem(BOUNDS, "slow", 2.0)
    monkeypatch.setattr(regressions, "ratio", noted)
    assert measure("slow") == max(ratios) < 2
    assert len(ratios) == ATTEMPTS


def test_one_thread_measures_and_all_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = torch.get_num_threads(), []

    def noted(*arguments: object) -> float:
        found.append(torch.get_num_threads())
        return BOUNDS["score step"]

    monkeypatch.setattr(regressions, "ratio", noted)
    torch.set_num_threads(2)
    try:
        measure("score step")
        assert torch.get_num_threads() == 2
        assert found == [1]
    finally:
        torch.set_num_threads(before)


def test_a_wrong_score_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_steps.ops, "score_step_sgd", lambda *lists, **options: None)
    with pytest.raises(AssertionError):
        score_steps.score_steps()
