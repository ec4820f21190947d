"""What tests have reached is told in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from coverage import CoverageData

from benchmarks import covered


def report(total: float, **files: tuple[float, list[int]]) -> dict[str, Any]:
    return {
        "files": {
            f"gemkern/{name}.py": {
                "summary": {"percent_covered": share},
                "missing_lines": missing,
            }
            for name, (share, missing) in files.items()
        },
        "totals": {"percent_covered": total},
    }


def test_files_below_the_bound_are_named_the_least_first() -> None:
    found = covered.lines(report(95.5, a=(96.0, [3]), b=(94.9, []), c=(50.0, [2, 9])))
    assert list(found) == [
        "gemkern/c.py: 50.0 %, not reached: 2, 9",
        "gemkern/b.py: 94.9 %, not reached: branches",
        "tests reach 95.5 % of lines and branches of 3 files",
    ]


@pytest.mark.parametrize(("total", "code"), [(95.0, 0), (94.9, 1)])
def test_too_little_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: float, code: int
) -> None:
    monkeypatch.setattr(covered, "measured", lambda: report(total, a=(total, [])))
    with pytest.raises(typer.Exit) as ended:
        covered.main()
    assert ended.value.exit_code == code
    assert f"tests reach {total} % of lines" in capsys.readouterr().out


def test_what_was_measured_is_read(tmp_path: Path) -> None:
    errors = covered.ROOT / "gemkern" / "errors.py"
    data = CoverageData(str(tmp_path / "data"))
    some = {(line, line + 1) for line in range(1, 10)}
    data.add_arcs({str(errors): some, str(covered.ROOT / "kernels" / "kept.py"): some})
    data.write()
    found = covered.measured(tmp_path / "data")
    assert list(found["files"]) == ["gemkern/errors.py"], "kernels are left out"
    assert 0 < covered.total(found) < 95
