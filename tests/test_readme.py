"""README says what the result files say, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import readme
from benchmarks.figures import DENSITY_FIGURE, digest_in
from benchmarks.readme import BLOCK, README, RESULTS, drawn, filled
from benchmarks.result_files import kept

TEXT = README.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_result_files() -> None:
    assert len(BLOCK.findall(TEXT)) >= 2
    assert filled(TEXT) == TEXT, "run python -m benchmarks.readme"


def test_a_figure_changed_by_hand_is_noticed() -> None:
    changed = re.sub(r"\| gem-miner \| (\d)", r"| gem-miner | 9\1", TEXT)
    assert changed != TEXT
    assert filled(changed) == TEXT


def test_the_figures_are_those_of_the_result_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(TEXT, tmp_path)
    assert len(figures) >= 2
    for figure in figures:
        assert digest_in(RESULTS / figure.name) == digest_in(figure), (
            "run python -m benchmarks.readme"
        )
        assert f"(benchmarks/results/{figure.name})" in TEXT
    (name,) = re.findall(r"<!-- curves: (\S+) -->", TEXT)
    found = kept(name)
    found["steps"][0]["sparse"] += 1
    monkeypatch.setattr(readme, "kept", lambda name: found)
    drawn(f"<!-- curves: {name} -->\n<!-- end -->", tmp_path)
    density = f"{name}-{DENSITY_FIGURE}"
    assert digest_in(tmp_path / density) != digest_in(RESULTS / density)


def test_what_is_not_measured_is_said() -> None:
    block = "<!-- rivals: race-digits-no-machine -->\n<!-- end -->"
    assert "Not measured: there is no `benchmarks/results/race-digits-no-machine.json`" in filled(
        block
    )
    with pytest.raises(FileNotFoundError):
        filled("<!-- steps: cpu-no-machine -->\n<!-- end -->")


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", TEXT))))
def test_the_code_runs_as_printed(
    number: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    torch.manual_seed(0)
    exec(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[number], {})
