"""Say how much of gemkern/ the tests have reached: lines, and branches between them.

python -m benchmarks.covered    after pytest --cov; exit code 1 below 95 %
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
# Of lines and branches, in percent.
ENOUGH = 95.0


def measured(data: Path = ROOT / ".coverage") -> dict[str, Any]:
    """Return what coverage.py has written to a file, as its JSON report has it."""
    coverage = Coverage(data_file=data, config_file=ROOT / "pyproject.toml")
    coverage.load()
    with tempfile.TemporaryDirectory() as folder:
        coverage.json_report(outfile=f"{folder}/report.json")
        return json.loads((Path(folder) / "report.json").read_text())


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each file below the bound, and one for all files."""
    files = {name: _share(file) for name, file in report["files"].items()}
    for name, share in sorted(files.items(), key=lambda item: item[1]):
        if share < ENOUGH:
            missing = ", ".join(map(str, report["files"][name]["missing_lines"]))
            yield f"{name}: {share:.1f} %, not reached: {missing or 'branches'}"
    yield f"tests reach {total(report):.1f} % of lines and branches of {len(files)} files"


def total(report: Mapping[str, Any]) -> float:
    """Return how much of all files was reached, in percent."""
    return float(report["totals"]["percent_covered"])


def main() -> None:
    """Print what was not reached; exit code 1 below the bound."""
    report = measured()
    for line in lines(report):
        typer.echo(line)
    raise typer.Exit(0 if total(report) >= ENOUGH else 1)


def _share(file: Mapping[str, Any]) -> float:
    return float(file["summary"]["percent_covered"])


if __name__ == "__main__":
    typer.run(main)
