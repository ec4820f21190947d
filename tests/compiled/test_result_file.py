"""The result file of the compiled kernels: what is written is read back, and shown in a table."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.compiled import JOBS, NAME, RESULTS, keep, kept, table


def test_what_is_kept_is_read_back_a_variant_a_line(tmp_path: Path) -> None:
    results = kept()
    keep(results, tmp_path)
    assert kept(tmp_path) == results
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "_kernel(" in line]
    assert len(lines) == len({place.variant for place in results})


def test_the_result_file_stays_small() -> None:
    assert (RESULTS / NAME).stat().st_size < 600_000


def test_the_table_shows_the_most_of_each_tile() -> None:
    results = kept()
    job = JOBS[0]
    greedy = results[job.place]._replace(registers=9999, shared=88888, spilled=777)
    shown = StringIO()
    Console(width=80, file=shown).print(table(results | {job.place: greedy}))
    (row,) = (line.split() for line in shown.getvalue().splitlines() if "9999" in line)
    assert row[-3:] == ["9999", "88888", "777"]
    assert job.target.name in row
