"""The time that is left of a race, against numbers that were computed by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from gemkern.kernels.cpu import pooling
from numba.core import event

from gemkern.cli import holding
from gemkern.cli.progress import Estimate, progress
from gemkern.experiments.records import EpochRecord

MINED, PRUNED = ("gem-miner", "find"), ("imp", "find")
TUNED, DENSE = ("gem-miner", "finetune"), ("dense", "finetune")


def test_epochs_that_are_left_take_what_those_of_their_kind_did() -> None:
    estimate = Estimate({MINED: 4, PRUNED: 2})
    estimate.note(MINED, 2.0)
    estimate.note(MINED, 4.0)
    estimate.note(PRUNED, 10.0)
    # Two of 3 seconds, one of 10.
    assert estimate.seconds() == pytest.approx(2 * 3 + 10)


def test_a_kind_not_seen_yet_takes_as_those_of_its_phase() -> None:
    estimate = Estimate({MINED: 3, PRUNED: 5, TUNED: 1, DENSE: 2})
    estimate.note(MINED, 1.0)
    estimate.note(MINED, 3.0)
    estimate.note(TUNED, 7.0)
    # One of 2 seconds; IMP's five as Gem-Miner's 2, dense training's two as finetuning's 7.
    assert estimate.seconds() == pytest.approx(2 + 5 * 2 + 2 * 7)


def test_kinds_of_a_phase_count_alike_however_many_epochs_they_had() -> None:
    estimate = Estimate({MINED: 3, PRUNED: 1, ("smart-ratio", "find"): 2})
    for seconds in (1.0, 1.0, 1.0):
        estimate.note(MINED, seconds)
    estimate.note(PRUNED, 5.0)
    assert estimate.seconds() == pytest.approx(2 * (1 + 5) / 2)


def test_a_phase_not_seen_yet_takes_as_all_others() -> None:
    estimate = Estimate({MINED: 1, PRUNED: 1, DENSE: 3})
    estimate.note(MINED, 2.0)
    estimate.note(PRUNED, 6.0)
    assert estimate.seconds() == pytest.approx(3 * 4)


def test_nothing_is_known_before_the_first_epoch_nor_left_after_the_last() -> None:
    estimate = Estimate({MINED: 2})
    assert estimate.seconds() == 0
    estimate.note(MINED, 8.0)
    assert estimate.seconds() == 8
    estimate.note(MINED, 8.0)
    assert estimate.seconds() == 0


def test_epochs_beyond_those_that_were_left_take_nothing_off() -> None:
    left = {MINED: 1, DENSE: 2}
    estimate = Estimate(left)
    # An epoch that is trained again after a checkpoint, and a kind that nobody counted.
    for kind in (MINED, MINED, TUNED):
        estimate.note(kind, 3.0)
    assert estimate.seconds() == pytest.approx(2 * 3)
    assert left == {MINED: 1, DENSE: 2}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3600, "60 min"),
        (5401, "2 h"),
        (86400, "24 h"),
        (3 * 86400 + 7200, "3 d"),
    ],
)
def test_the_bar_says_how_long_the_whole_will_take(
    seconds: float,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    clock = itertools.count(100.0, seconds)
    monkeypatch.setattr("gemkern.cli.progress.time.monotonic", lambda: next(clock))
    record = EpochRecord("imp", 7, "find", 1, 0.25, 1.0, 0.625, 1.0, 1.0)
    with progress({PRUNED: 3}, done=1) as on_epoch:
        on_epoch(record)
        on_epoch(record)
    shown = capfd.readouterr().err.split("\r")[-1]
    assert "3/4 epochs" in shown
    assert f"{words} left; seed 7 imp find: density 25.00 %, validation 62.5 %" in shown


@pytest.mark.parametrize(("serves", "said"), [(True, "2 CPU kernels compiled in 0 s"), (False, "")])
def test_kernels_that_are_compiled_before_a_run_are_counted(
    serves: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile_two(laboratory: object) -> None:
        for _ in range(2):
            data = {"dispatcher": SimpleNamespace(py_func=pooling.max_pool2d)}
            with event.trigger_event("numba:compile", data=data):
                pass

    monkeypatch.setattr(holding, "warm_up", compile_two)
    holding.make_ready(SimpleNamespace(may_accelerate=serves))  # type: ignore[arg-type]
    assert capsys.readouterr().out.strip() == said
