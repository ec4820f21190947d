"""`gemkern reproduce`: rows of the paper's tables as races, and both numbers side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import call
from rich.console import Console

from gemkern.experiments.paper import AFTER, SHUFFLED, TABLES, Row, Table
from gemkern.experiments.presets import resolve
from gemkern.experiments.records import Run
from gemkern.experiments.run_folder import RunFolder
from gemkern.report import paper_table
from gemkern.tickets import METHODS

SHORT = [
    "--data", "digits", "--train-limit", "128", "--budget", "0.01", "--device", "cpu",
    "--set", "batch_size=32", "--set", "accelerate=never", "--set", "model=resnet8",
    "--set", "density=0.3",
]  # fmt: skip
Captured = pytest.CaptureFixture[str]


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def run(method: str, seed: int, after: float) -> Run:
    return Run(method, seed, 0.1, 10, 0.1, after, 3, 2, 1.0, 1.0, 1.0, {})


def rows() -> list[tuple[str, Row]]:
    return [(name, row) for name, table in TABLES.items() for row in table.rows]


@pytest.mark.parametrize(("table", "row"), rows())
def test_a_row_names_what_there_is(table: str, row: Row) -> None:
    assert row.method in METHODS
    settings = resolve(row.preset, {**row.changes, "device": "cpu"})
    known = settings.as_dict({row.method, "gem-miner"})
    for name, value in row.changes.items():
        assert known[name] == value
    titles = {column.title for column in TABLES[table].columns}
    assert set(row.paper) <= titles
    assert len({one.name for one in TABLES[table].rows}) == len(TABLES[table].rows)


def test_epochs_are_those_that_the_paper_counts() -> None:
    for row in TABLES["table4"].rows:
        settings = resolve(row.preset, {**row.changes, "device": "cpu"})
        if row.method == "gem-miner":
            own = settings.own["gem-miner"]
            assert own.mine_epochs + settings.finetune_epochs == row.paper["epochs in all"]


def test_both_numbers_stand_side_by_side_with_their_spread() -> None:
    table = Table(
        "T",
        (AFTER, SHUFFLED),
        (
            Row("a", "A", "imp", "resnet20-1.44", paper={AFTER.title: 74.5}),
            Row("b", "B", "snip", "resnet20-1.44"),
        ),
    )
    runs: dict[str, Sequence[Run]] = {
        "a": [run("imp", 0, 0.70), run("imp", 1, 0.72), run("shuffled", 0, 0.5)]
    }
    text = shown(paper_table(table, runs, ["5 % of the epochs"]))
    assert "T; ours with 5 % of the epochs" in text
    (a,) = [line.split() for line in text.splitlines() if line.strip().startswith("A ")]
    assert a == ["A", "74.50", "71.00", "±", "1.41", "(2)", "-", "50.00", "(1)"]
    (b,) = [line.split() for line in text.splitlines() if line.strip().startswith("B ")]
    assert b == ["B", "-", "not", "run", "-", "not", "run"]
    assert "ours with" not in shown(paper_table(table, runs))


def test_a_row_is_run_with_its_checks_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    words = ["reproduce", "table2", *SHORT, "--rows", "prospr", "--out", tmp_path]
    assert call(monkeypatch, *words) == 0
    said = capfd.readouterr().out
    assert "ours with 1 % of the epochs" in said
    assert "train_limit 128" in said
    assert said.count("not run") == 3
    folder = RunFolder.load(tmp_path / "prospr")
    assert {run.method for run in folder.runs()} == {"prospr", "shuffled", "reinitialised"}
    tickets = folder.tickets()
    assert {method for method, _ in tickets} == {"prospr", "shuffled", "reinitialised"}
    assert folder.config()["config"]["prospr_steps"] > 0
    assert call(monkeypatch, *words) == 2, "it was run"
    assert call(monkeypatch, *words, "--resume") == 0


def test_what_there_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    for words, message in (
        (["table9"], "no table is called 'table9': give one of table1, table2"),
        (["table2", "--rows", "imp"], "table2 has no row 'imp': give --rows of prospr, gem-miner"),
        (["table2", "--preset", "digits"], "a row of the paper has its own preset"),
    ):
        assert call(monkeypatch, "reproduce", *words, *SHORT, "--out", tmp_path / "out") == 2
        (sentence,) = capfd.readouterr().err.splitlines()
        assert message in sentence
    assert not (tmp_path / "out").exists()
