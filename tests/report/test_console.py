"""Every number is checked against one computed by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from gemkern.errors import GemkernError
from gemkern.experiments.records import Run
from gemkern.experiments.summary import paired_gain, summarise
from gemkern.report.console import (
    gain_table,
    markdown_table,
    race_table,
    settings_table,
)


def run(method: str, seed: int, after: float, find: float, finetune: float) -> Run:
    return Run(
        method=method,
        seed=seed,
        density=0.0144,
        weights_left=3864 + seed,
        accuracy_before=after - 0.5,
        accuracy_after=after,
        find_epochs=8 if find else 0,
        finetune_epochs=4,
        find_seconds=find,
        finetune_seconds=finetune,
        step_ms=2.0 + seed,
        layer_density={"conv1": 0.0144},
    )


# The seeds of imp stand in another order, so that only pairing by seed gives the right gains.
RUNS = [
    run("gem-miner", 0, 0.90, 10.0, 10.0),
    run("gem-miner", 1, 0.92, 20.0, 10.0),
    run("gem-miner", 2, 0.94, 30.0, 10.0),
    run("imp", 2, 0.90, 90.0, 15.0),
    run("imp", 0, 0.88, 100.0, 20.0),
    run("imp", 1, 0.91, 110.0, 25.0),
    run("random", 0, 0.61, 0.0, 40.0),
]


def shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def by_method(runs: list[Run], reference: str = "imp") -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in summarise(runs, reference)}


def test_methods_stand_in_the_order_given() -> None:
    assert [row["method"] for row in summarise(RUNS)] == ["gem-miner", "imp", "random"]
    assert [row["method"] for row in summarise(RUNS[::-1])] == ["random", "imp", "gem-miner"]


def test_means_and_sample_deviations_over_seeds() -> None:
    row = by_method(RUNS)["gem-miner"]
    assert row["seeds"] == [0, 1, 2]
    assert row["accuracy_after"] == pytest.approx(0.92)
    assert row["accuracy_after_std"] == pytest.approx(0.02)
    assert row["accuracy_before"] == pytest.approx(0.42)
    assert row["accuracy_before_std"] == pytest.approx(0.02)
    assert row["density"] == pytest.approx(0.0144)
    assert row["weights_left"] == pytest.approx(3865)
    assert (row["find_epochs"], row["finetune_epochs"]) == (8, 4)
    assert (row["find_seconds"], row["total_seconds"]) == (20, 30)
    assert row["step_ms"] == 3


def test_a_single_seed_has_no_deviation() -> None:
    row = by_method(RUNS)["random"]
    assert row["accuracy_after"] == 0.61
    assert row["accuracy_before_std"] is None
    assert row["accuracy_after_std"] is None


def test_speedups_compare_mean_seconds() -> None:
    rows = by_method(RUNS)
    speedups = {name: (row["find_speedup"], row["total_speedup"]) for name, row in rows.items()}
    assert speedups == {"gem-miner": (5.0, 4.0), "imp": (1.0, 1.0), "random": (None, 3.0)}


def test_no_speedup_without_a_reference_that_searched() -> None:
    alone = by_method([run for run in RUNS if run.method != "imp"])
    assert alone["gem-miner"]["find_speedup"] is None
    assert alone["gem-miner"]["total_speedup"] is None
    over_random = by_method(RUNS, reference="random")
    assert over_random["gem-miner"]["find_speedup"] is None
    assert over_random["gem-miner"]["total_speedup"] == pytest.approx(40 / 30)


EXPECTED_CELLS = [
    row.split("|")
    for row in (
        "gem-miner|1.44|42.00±2.00|92.00±2.00|8+4|20.0|30.0|3.00|5.0x|4.0x",
        "imp|1.44|39.67±1.53|89.67±1.53|8+4|100.0|120.0|3.00|1.0x|1.0x",
        "random|1.44|11.00|61.00|0+4|0.00|40.0|2.00|-|3.0x",
    )
]


def test_markdown_holds_the_same_numbers() -> None:
    header, ruler, *rows = markdown_table(RUNS).splitlines()
    assert header == (
        "| method | density<br>% | accuracy<br>before % | accuracy<br>after % "
        "| epochs<br>find+tune | find<br>s | total<br>s | step<br>ms "
        "| speed<br>find | speed<br>total |"
    )
    assert ruler == "| --- |" + " ---: |" * 9
    assert [row.strip("| ").split(" | ") for row in rows] == EXPECTED_CELLS


def test_the_table_shows_every_number_aligned_right() -> None:
    table = race_table(RUNS)
    assert [column.justify for column in table.columns] == ["left"] + ["right"] * 9
    lines = shown(table).splitlines()
    above, below = (" ".join(line.split()) for line in lines[:2])
    assert above == "density accuracy accuracy epochs find total step speed speed"
    assert below == "method % before % after % find+tune s s ms find total"
    rows = [next(line for line in lines if line.startswith(row[0])) for row in EXPECTED_CELLS]
    for row, cells in zip(rows, EXPECTED_CELLS, strict=True):
        positions = [row.find(cell) for cell in cells]
        assert -1 not in positions
        assert positions == sorted(positions)
    assert lines[-2].startswith("Seeds: 1 or 3;")
    assert lines[-1].rstrip() == "Speed: seconds of imp / seconds of the method."


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_race_is_shown_whole(width: int) -> None:
    long = [
        replace(run, find_seconds=98765.4, find_epochs=360, step_ms=123.45, density=1.0)
        for run in RUNS[:3]
    ]
    lines = shown(race_table(RUNS[3:] + long), width).splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line.split() for line in lines if line.startswith("gem-miner"))
    assert row == [
        "gem-miner", "100.00", "42.00±2.00", "92.00±2.00", "360+4", "98765", "98775", "123.5",
        "0.0x", "0.0x",
    ]  # fmt: skip


def test_a_long_name_folds_and_the_numbers_stay_whole() -> None:
    runs = [replace(run, method="reinitialised") for run in RUNS[:3]]
    text = shown(race_table(runs), width=80)
    assert "…" not in text
    assert all(cell in text for cell in ("42.00±2.00", "92.00±2.00", "8+4", "20.0", "30.0", "3.00"))


def test_paired_gain_over_matched_seeds() -> None:
    gain, error = paired_gain(RUNS, "gem-miner", "imp")
    # Differences 0.02, 0.01, 0.04: sample variance 7/30000, over three seeds 7/90000.
    assert gain == pytest.approx(0.07 / 3)
    assert error == pytest.approx((7 / 90000) ** 0.5)


def test_paired_gain_of_one_seed_has_no_error() -> None:
    gain, error = paired_gain(RUNS, "gem-miner", "random")
    assert gain == pytest.approx(0.29)
    assert error is None


def test_paired_gain_needs_a_common_seed() -> None:
    strangers = [run("gem-miner", 0, 0.9, 1.0, 1.0), run("imp", 1, 0.8, 1.0, 1.0)]
    with pytest.raises(GemkernError, match="gem-miner and imp share no seed"):
        paired_gain(strangers, "gem-miner", "imp")


def test_gains_in_words() -> None:
    assert [line.rstrip() for line in shown(gain_table(RUNS)).splitlines()] == [
        "gem-miner beats imp by 2.33 points ± 0.88 (2.6 standard errors) over 3 seeds",
        "gem-miner beats random by 29.00 points over 1 seed",
    ]
    (backwards,) = shown(gain_table(RUNS, method="imp", rivals=["gem-miner"])).splitlines()
    assert backwards.startswith("imp trails gem-miner by 2.33 points ± 0.88 (2.6 standard errors)")


@pytest.mark.parametrize("accuracies", [(0.75, 0.65, 0.75, 0.65), (0.9, 0.8, 0.4, 0.3)])
def test_equal_gains_on_every_seed_are_no_division_by_zero(accuracies: tuple[float, ...]) -> None:
    pairs = zip(("gem-miner", "imp") * 2, (0, 0, 1, 1), accuracies, strict=True)
    runs = [run(method, seed, accuracy, 1.0, 1.0) for method, seed, accuracy in pairs]
    (sentence,) = shown(gain_table(runs)).splitlines()
    assert sentence.rstrip() == "gem-miner beats imp by 10.00 points ± 0.00 over 2 seeds"


def test_a_race_without_gem_miner_has_no_gains() -> None:
    assert gain_table(RUNS[3:]).row_count == 0
    with pytest.raises(GemkernError):
        gain_table(RUNS[3:], rivals=["imp"])


def test_settings_show_each_name_and_value() -> None:
    settings = {"data": "digits", "data_dir": None, "methods": ["imp", "dense"], "a": "[gpu]"}
    text = shown(settings_table(settings))
    assert [line.split("  ")[0] for line in text.splitlines()] == ["data", "data_dir"]
    for part in ("digits", "-", "imp, dense", "[gpu]"):
        assert part in text
    assert shown(settings_table({})).strip() == ""


def test_settings_are_whole_in_a_narrow_terminal() -> None:
    settings = {f"a_rather_long_name_{number}": "x" * 30 + str(number) for number in range(5)}
    text = shown(settings_table(settings), width=80)
    assert "…" not in text
    assert all(name in text for name in settings)
    assert text.count("x") == 5 * 30
