"""The race of the benchmarks: who runs it, what it counts, and what is said of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import race, race_report
from benchmarks.figures import digest, digest_in
from benchmarks.race import CHEAP, METHODS
from benchmarks.result_files import kept, named, used
from gemkern.experiments import laboratory
from gemkern.experiments.presets import resolve
from gemkern.experiments.settings import Settings

WEIGHTS = 74_512


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Return a race on the digits of two steps an epoch."""
    short = {"train_limit": 128, "device": "cpu", "accelerate": "never", "density": 0.1}
    epochs = ("mine_epochs=4", "finetune_epochs=2", "imp_epochs=2", "imp_prune=0.5")
    return resolve("digits", short, epochs)


@pytest.fixture(scope="module")
def rows(settings: Settings) -> list[dict[str, Any]]:
    return list(race.run(race.laboratories(settings), [0, 1]))


def test_cheap_imp_is_imp_with_the_epochs_of_gem_miner() -> None:
    for preset, cheap in (("digits", 36), ("resnet20-1.44", 160)):
        settings = resolve(preset, {"device": "cpu"})
        found = race.cheap(settings, WEIGHTS, steps=351)
        assert found.changed(imp_epochs=settings.own["imp"].imp_epochs) == settings
        assert race.imp_rounds(found, WEIGHTS) * found.own["imp"].imp_epochs == cheap
    hasty = race.cheap(settings.changed(mine_epochs=8, freeze_every=1), WEIGHTS, steps=351)
    assert (hasty.own["imp"].imp_epochs, hasty.own["imp"].imp_rewind) == (1, "175")
    learning_rate = race.cheap(settings.changed(imp_rewind="learning-rate"), WEIGHTS, steps=351)
    assert learning_rate.own["imp"].imp_rewind == "learning-rate"


def test_every_contender_runs_every_seed_to_one_density(rows: list[dict[str, Any]]) -> None:
    assert [(row["method"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (0, 1) for name in METHODS
    ]
    left = {row["weights_left"] for row in rows if row["method"] != "dense"}
    assert len(left) == 1
    epochs = {row["method"]: row["find_epochs"] for row in rows}
    assert epochs == {"dense": 0, "gem-miner": 4, "imp": 8, CHEAP: 4}
    for row in rows:
        course = row["course"]
        assert {len(values) for values in course.values()} == {row["find_epochs"] + 2}
        assert course["seconds"] == sorted(course["seconds"])
        total = race_report.total_seconds(row)
        assert course["seconds"][-1] == pytest.approx(total, abs=1e-4)
        assert row["finetune_step_ms"] > 0


def test_evaluation_is_not_timed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def slow(*arguments: object, **options: object) -> float:
        calls.append(arguments)
        time.sleep(0.5)
        return 0.5

    where = {"dense": race.laboratories(settings)["dense"]}
    monkeypatch.setattr(race, "METHODS", {"dense": "dense"})
    monkeypatch.setattr(laboratory, "evaluate", slow)
    (row,) = race.run(where, [0])
    assert len(calls) == 4
    assert race_report.total_seconds(row) < 0.5


def test_the_race_is_kept_under_the_name_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "METHODS", {"dense": "dense", "imp": "imp", CHEAP: "imp"})
    short = ["train_limit=128", "accelerate=never", "imp_prune=0.5", "mine_epochs=20"]
    race.main(seeds=1, budget=0.1, device="cpu", assign=short, name="short", out=tmp_path)
    name = named("race-short", used("cpu"))
    found = kept(name, tmp_path)
    assert {"command", "commit", "changed", "versions", "devices", "dtype", "layout"} <= set(found)
    assert found["config"]["finetune_epochs"] == 1
    assert found["cheap_imp_epochs"] == 1
    assert race_report.markdown(found["runs"]).count("\n") == 5


def test_a_race_goes_on_where_it_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "METHODS", {"dense": "dense", "imp": "imp", CHEAP: "imp"})
    short = ["train_limit=128", "accelerate=never", "imp_prune=0.5", "mine_epochs=20"]
    options = {"budget": 0.1, "device": "cpu", "assign": short, "out": tmp_path, "resume": True}
    race.main(seeds=1, **options)
    (path,) = tmp_path.iterdir()
    first = kept(path.stem, tmp_path)["runs"]
    race.main(seeds=2, **options)
    runs = kept(path.stem, tmp_path)["runs"]
    assert [run["seed"] for run in runs] == [0, 1] * 3
    assert runs[::2] == first
    with pytest.raises(typer.Exit):
        race.main(seeds=2, **{**options, "budget": 0.2})


def test_bad_settings_are_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for chosen in ({"preset": "digit"}, {"assign": ["batch_size=0"]}):
        with pytest.raises(typer.Exit) as ended:
            race.main(**chosen)
        assert ended.value.exit_code == 1
        assert capsys.readouterr().err.count("\n") == 1


def run_of(method: str, seed: int, find: float, tune: float, accuracy: float) -> dict[str, Any]:
    return {
        "method": method, "seed": seed, "density": 0.02, "find_epochs": 1 if find else 0,
        "finetune_epochs": 1, "find_seconds": find, "finetune_seconds": tune, "step_ms": 5.0,
        "finetune_step_ms": 4.0, "accuracy_before": 0.5, "accuracy_after": accuracy,
        "weights_left": 1, "layer_density": {},
        "course": {
            "density": [0.02, 0.02] if find else [0.02],
            "seconds": [find, find + tune] if find else [tune],
            "validation_accuracy": [0.4, 0.9] if find else [0.9],
        },
    }  # fmt: skip


def test_a_line_holds_means_spreads_and_how_much_faster() -> None:
    runs = [
        run_of("dense", 0, 0.0, 2.0, 0.9), run_of("dense", 1, 0.0, 2.0, 0.9),
        run_of("imp", 0, 8.0, 2.0, 0.90), run_of("imp", 1, 12.0, 2.0, 0.92),
        run_of("gem-miner", 0, 4.0, 1.0, 0.8), run_of("gem-miner", 1, 4.0, 1.0, 0.8),
    ]  # fmt: skip
    dense, imp, miner = race_report.cells(runs)
    assert dense[2:6] == ["-"] * 4
    assert dense[-2:] == ["-", "6.0x"]
    assert imp[:2] == ["imp", "2.00"]
    assert imp[4] == "10.0±2.83"
    assert imp[9] == "91.00±1.41"
    assert miner[-2:] == ["2.5x", "2.4x"]
    assert race_report.cells(runs[2:3])[0][4] == "8.00"


def test_the_figure_is_of_its_runs(tmp_path: Path) -> None:
    runs = [run_of("dense", 0, 0.0, 2.0, 0.9), run_of("imp", 0, 8.0, 2.0, 0.9)]
    (path,) = race_report.draw({"runs": runs}, tmp_path / "race-x")
    assert path == tmp_path / "race-x-accuracy.png"
    assert digest_in(path) == digest(runs)
