"""The paper's numbers and ours side by side, with the spread of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from rich import box
from rich.table import Table as RichTable

from gemkern.experiments.paper import Column, Row, Table
from gemkern.experiments.records import Run
from gemkern.report.cells import cell

NOT_RUN, NOT_PRINTED = "not run", "-"


def paper_table(
    table: Table, runs: Mapping[str, Sequence[Run]], changes: Sequence[str] = ()
) -> RichTable:
    """Return a table of the paper for a terminal: for each column the paper's number, and ours.

    Args:
        runs: those of each row, by its name; a row without any was not run.
        changes: what was run otherwise than in the paper, which the title says.
    """
    title = f"{table.title}; ours with {', '.join(changes)}" if changes else table.title
    shown = RichTable(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False)
    shown.add_column("row", overflow="fold")
    for column in table.columns:
        for whose in ("paper", "ours"):
            shown.add_column(f"{column.title}\n{whose}", justify="right")
    for row in table.rows:
        own = runs.get(row.name, ())
        cells = [cell for column in table.columns for cell in _cells(column, row, own)]
        shown.add_row(cell(row.label), *map(cell, cells))
    return shown


def _cells(column: Column, row: Row, runs: Sequence[Run]) -> tuple[str, str]:
    printed = row.paper.get(column.title)
    paper = NOT_PRINTED if printed is None else f"{printed:.{column.digits}f}"
    method = column.method or row.method
    values = [column.value(run) for run in runs if run.method == method]
    if not values:
        return paper, NOT_RUN
    ours = f"{fmean(values):.{column.digits}f}"
    if len(values) > 1 and column.digits:
        ours += f" ± {stdev(values):.{column.digits}f}"
    return paper, f"{ours} ({len(values)})"
