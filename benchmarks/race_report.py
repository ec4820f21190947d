"""What a race of `benchmarks.race` came to: a table for a terminal or README, and a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from benchmarks.figures import save
from gemkern.experiments.records import EpochRecord, Run
from gemkern.report.console import short
from gemkern.report.courses import TITLE_POINTS, draw_courses, draw_ends, legend_of
from gemkern.report.figures import COLOURS
from gemkern.report.scales import log_scale

REFERENCE = "imp"
HEADERS = (
    "contender",
    "density\n%",
    "epochs\nfind",
    "step ms\nfind",
    "find\ns",
    "accuracy\nfound %",
    "epochs\ntotal",
    "step ms\nfinetune",
    "total\ns",
    "accuracy\nfinetuned %",
    "faster\nfind",
    "faster\ntotal",
)
NONE = "-"
CHEAP_COLOUR = "#56B4E9"
LEGEND_COLUMNS = 7
Row = dict[str, Any]


def table(runs: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for header in HEADERS:
        found.add_column(header, justify="left" if header == HEADERS[0] else "right", no_wrap=True)
    for row in cells(runs):
        found.add_row(*row)
    return found


def markdown(runs: Sequence[Row]) -> str:
    """Return the table as GitHub Markdown, ending in a newline."""
    lines = [
        [header.replace("\n", "<br>") for header in HEADERS],
        ["---"] + ["---:"] * (len(HEADERS) - 1),
        *cells(runs),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(runs: Sequence[Row]) -> list[list[str]]:
    """Return a line of the table for each contender; ± is one sample standard deviation.

    *Faster* divides the mean seconds of IMP by the contender's.
    """
    contenders = by_contender(runs)
    slow = contenders[REFERENCE]
    return [_line(name, of_one, slow) for name, of_one in contenders.items()]


def by_contender(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the runs of each contender, in the order in which the contenders appear."""
    found: dict[str, list[Row]] = {}
    for one in runs:
        found.setdefault(one["method"], []).append(one)
    return found


def total_seconds(one: Row) -> float:
    """Return the seconds of a run, for finding and finetuning."""
    return one["find_seconds"] + one["finetune_seconds"]


def _line(name: str, runs: Sequence[Row], slow: Sequence[Row]) -> list[str]:
    searched = any(one["find_epochs"] for one in runs)

    def of_search(cell: str) -> str:
        return cell if searched else NONE

    def mean(field: str) -> float:
        return fmean(one[field] for one in runs)

    return [
        name,
        f"{100 * mean('density'):.2f}",
        of_search(f"{mean('find_epochs'):g}"),
        of_search(_spread([one["step_ms"] for one in runs])),
        of_search(_spread([one["find_seconds"] for one in runs])),
        of_search(_percent([one["accuracy_before"] for one in runs])),
        f"{mean('find_epochs') + mean('finetune_epochs'):g}",
        _spread([one["finetune_step_ms"] for one in runs]),
        _spread([total_seconds(one) for one in runs]),
        _percent([one["accuracy_after"] for one in runs]),
        of_search(_faster(slow, runs, lambda one: one["find_seconds"])),
        _faster(slow, runs, total_seconds),
    ]


def _spread(values: Sequence[float]) -> str:
    mean = short(fmean(values))
    return mean if len(values) == 1 else f"{mean}±{short(stdev(values))}"


def _percent(fractions: Sequence[float]) -> str:
    mean = f"{100 * fmean(fractions):.2f}"
    return mean if len(fractions) == 1 else f"{mean}±{100 * stdev(fractions):.2f}"


def _faster(slow: Sequence[Row], runs: Sequence[Row], seconds: Callable[[Row], float]) -> str:
    mine = fmean(map(seconds, runs))
    return f"{fmean(map(seconds, slow)) / mine:.1f}x" if mine else NONE


def draw(found: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write accuracy against seconds as a figure: the way of each contender, and the ends alone.

    Args:
        found: a result file of `benchmarks.race`.
        stem: where figures go, to be ended by their names.
    """
    rows = found["runs"]
    runs = [Run(**{one.name: row[one.name] for one in fields(Run)}) for row in rows]
    colours = {name: COLOURS.get(name, CHEAP_COLOUR) for name in by_contender(rows)}
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    way, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_courses(way, [epoch for row in rows for epoch in _epochs(row)], colours)
    draw_ends(way, runs, colours)
    draw_ends(ends, runs, colours)
    ends.set_title("mean ± standard deviation", fontsize=TITLE_POINTS)
    log_scale(ends, "x")
    for axes in (way, ends):
        axes.grid(alpha=0.3)
    figure.legend(
        handles=legend_of(colours), loc="outside upper center", ncols=LEGEND_COLUMNS, frameon=False
    )
    return [save(figure, stem.with_name(f"{stem.name}-accuracy.png"), rows)]


def _epochs(row: Row) -> list[EpochRecord]:
    """Return the course of a run as records; what it does not hold is NaN."""
    columns = row["course"]
    epochs = zip(
        columns["density"], columns["validation_accuracy"], columns["seconds"], strict=True
    )
    return [
        EpochRecord(
            method=row["method"],
            seed=row["seed"],
            phase="find" if index < row["find_epochs"] else "finetune",
            epoch=index + 1,
            density=density,
            loss=math.nan,
            validation_accuracy=accuracy,
            seconds=seconds,
            step_ms=math.nan,
        )
        for index, (density, accuracy, seconds) in enumerate(epochs)
    ]
