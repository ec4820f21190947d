"""What acceleration saved is summed up, a loss and nothing at all as well."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from gemkern import GemkernError
from gemkern.experiments.records import Saving
from gemkern.experiments.run_folder import RunFolder
from gemkern.report import savings_table

SAVINGS = [
    Saving("imp", 0, "find", 100, 20.0, 10.0),
    Saving("imp", 1, "find", 300, 40.0, 20.0),
    Saving("imp", 0, "finetune", 50, 10.0, 12.0),
]


def printed(savings: list[Saving]) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(savings_table(savings))
    return capture.get()


def test_rows_are_means_and_sums_over_seeds() -> None:
    shown = printed(SAVINGS)
    cells = [line.split() for line in shown.splitlines()]
    assert ["imp", "find", "400", "30.0", "15.0", "2.00x", "7.0"] in cells
    assert ["imp", "finetune", "50", "10.0", "12.0", "0.83x", "-0.1"] in cells
    assert "Acceleration saved 6.9 s over 450 steps." in shown


def test_a_loss_is_called_one_and_says_what_to_do() -> None:
    sentence = " ".join(printed(SAVINGS[2:]).split())
    assert "Acceleration lost 0.1 s over 50 steps: leave it off with --set " in sentence


def test_nothing_saved_is_said() -> None:
    assert "Nothing ran accelerated" in printed([])


def test_what_was_not_measured_is_left_out() -> None:
    unknown = Saving("imp", 0, "find", 0, 20.0, math.nan, [{"step": 0, "compressed": []}])
    assert printed([*SAVINGS, unknown]) == printed(SAVINGS)
    assert "Nothing ran accelerated" in printed([unknown])


def test_records_are_read_back(tmp_path: Path) -> None:
    record = [{"step": 3, "compressed": ["conv"], "ms": {"dense": 2.0, "sparse": 1.0}}]
    folder = RunFolder(tmp_path)
    folder.write([], [Saving("imp", 4, "find", 0, 2.0, math.nan, record)])
    assert folder.records() == {("imp", 4, "find"): record}
    (tmp_path / "results.json").write_text('{"savings": [{"method": "imp"}]}')
    with pytest.raises(GemkernError, match="is damaged"):
        folder.records()


def test_results_hold_them(tmp_path: Path) -> None:
    RunFolder(tmp_path).write([], SAVINGS)
    kept = json.loads((tmp_path / "results.json").read_text())["savings"]
    assert [Saving(**entry) for entry in kept] == SAVINGS
