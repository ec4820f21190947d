"""Turn what was measured of masked layers into the table of ways.

python -m benchmarks.gpu.ways RESULT            write `kernels/gpu/ways.json`
python -m benchmarks.gpu.ways RESULT --show     print its rows instead
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from gemkern.kernels.gpu.ways import TABLE

from benchmarks.gpu.layers import WAYS
from benchmarks.gpu.products import FLOAT32, SECTION
from benchmarks.result_files import ROOT
from gemkern.files import write_atomically

Measured = dict[str, Any]


def in_kernel(result: Measured, measured: str) -> list[Measured]:
    """Return the table's rows for the device of `result`.

    An operator masks inside its product up to the largest number of rows at which, and below which,
    it was faster for every measured shape: its 90th percentile below the other way's 10th.

    Args:
        measured: the name of the result file, for the table.
    """
    device = result["about"]["devices"][-1]["name"]
    rows = [
        row
        for row in result["rows"]
        if row["section"] in (SECTION, FLOAT32) and len(row.get("times", {})) == len(WAYS)
    ]
    found = []
    for (operator, dtype), of_one in groupby(sorted(rows, key=_kind), key=_kind):
        most = 0
        for count, same in groupby(sorted(of_one, key=_count), key=_count):
            if not all(_faster(row) for row in same):
                break
            most = count
        if most:
            found.append({"device": device, "operator": operator, "dtype": dtype, "rows": most,
                          "measured": measured})  # fmt: skip
    return found


def _kind(row: Measured) -> tuple[str, str]:
    return row["operator"], row["dtype"]


def _count(row: Measured) -> int:
    return row["rows"]


def _faster(row: Measured) -> bool:
    return row["times"]["in-kernel"]["p90_us"] < row["times"]["materialised"]["p10_us"]


def main(
    result: Annotated[Path, typer.Argument(help="A result file of benchmarks.gpu.")],
    show: Annotated[bool, typer.Option("--show", help="Print; write nothing.")] = False,
) -> None:
    """Replace the rows of the result's device in the table."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    kept = json.loads(result.read_text(encoding="utf-8"))
    place = result.resolve()
    name = str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else place.name
    rows = in_kernel(kept, name)
    device = kept["about"]["devices"][-1]["name"]
    others = [row for row in table["in-kernel"] if row["device"] != device]
    text = json.dumps({**table, "in-kernel": [*others, *rows]}, indent=1) + "\n"
    if show:
        typer.echo(text)
    else:
        write_atomically(TABLE, lambda path: path.write_text(text, "utf-8"))


if __name__ == "__main__":
    typer.run(main)
