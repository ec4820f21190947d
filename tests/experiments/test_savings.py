"""Acceleration runs as it is asked for, says what it saved, and can be replayed."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_race import Race, settings

from gemkern import GemkernError
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.presets import resolve
from gemkern.experiments.records import Run, Saving
from gemkern.training import trial

METHODS = ("gem-miner", "imp", "random", "dense")
SEARCHED = {("gem-miner", "find"), ("imp", "find")}
PHASES = SEARCHED | {(method, "finetune") for method in METHODS}
# As many steps as a trial of two forms needs in the epochs of `tiny_race`.
LONG = {"density": 0.05, "mine_epochs": 6, "imp_epochs": 3, "finetune_epochs": 4}


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MEASURING", trial.Measuring(warm_up=0, steps=1, rounds=1))


def raced(
    methods: tuple[str, ...] = METHODS, records: Any = None, **changes: Any
) -> tuple[list[Run], list[Saving]]:
    held = Race(Laboratory(settings(**LONG, **changes), records)).hold(methods)
    return held.runs, held.savings


def results(runs: list[Run]) -> list[tuple[float, float, dict[str, float]]]:
    return [(run.accuracy_before, run.accuracy_after, run.layer_density) for run in runs]


def test_a_measured_race_says_what_it_saved_and_is_replayed(short_trials: None) -> None:
    runs, savings = raced(accelerate="measure")
    assert {(saving.method, saving.phase) for saving in savings} == PHASES
    for saving in savings:
        if saving.method == "dense":
            assert saving.record == []
            continue
        decided = [entry for entry in saving.record if "ms" in entry]
        assert decided
        assert saving.dense_ms == decided[-1]["ms"]["dense"]
        assert 0 <= saving.steps <= 4 * max(LONG["mine_epochs"], 12)
        assert saving.is_known == (saving.steps > 0)
    records = {(one.method, one.seed, one.phase): one.record for one in savings}
    again, replayed = raced(accelerate="runs/before", records=records)
    assert results(again) == results(runs)
    # Beside the times, which a replay does not measure.
    assert [forms_of(one) for one in replayed] == [forms_of(one) for one in savings]


def forms_of(saving: Saving) -> list[tuple[int, list[str]]]:
    changes: list[tuple[int, list[str]]] = []
    for entry in saving.record:
        now = changes[-1][1] if changes else []
        if entry["compressed"] != now:
            changes.append((entry["step"], entry["compressed"]))
    return changes


def test_always_is_from_the_first_step() -> None:
    _, savings = raced(("gem-miner",), accelerate="always")
    assert [(one.phase, one.record[0]["step"]) for one in savings] == [("find", 0), ("finetune", 0)]
    assert all(len(one.record[0]["compressed"]) == 8 for one in savings)
    assert not any(one.is_known for one in savings)


@pytest.mark.parametrize("changes", [{"accelerate": "never"}, {"autocast": "bfloat16"}])
def test_what_does_not_run_sparse_says_nothing(changes: dict[str, str]) -> None:
    _, savings = raced(("gem-miner",), **({"accelerate": "measure"} | changes))
    assert savings == []


def test_seeds_that_train_together_share_their_seconds(short_trials: None) -> None:
    both = settings(**LONG, accelerate="measure", seeds_at_once=2)
    savings = Race(Laboratory(both)).hold(["gem-miner"], [0, 1]).savings
    assert len(savings) == 4
    for saving in savings:
        *_, last = [entry for entry in saving.record if "ms" in entry]
        assert saving.dense_ms == last["ms"]["dense"] / 2


def test_a_record_that_is_missing_is_refused() -> None:
    with pytest.raises(GemkernError, match="no record of gem-miner, seed 0, find"):
        raced(("gem-miner",), accelerate="runs/before", records={})


def test_what_is_no_choice_and_no_folder_is_refused() -> None:
    with pytest.raises(GemkernError, match="accelerate cannot be 'false': give one of measure"):
        resolve("digits", {}, ["accelerate=false"])


def test_settings_measure_by_default() -> None:
    assert resolve("digits", {}).accelerate == "measure"
    assert resolve("digits", {}, ["accelerate=never"]).as_dict()["accelerate"] == "never"
