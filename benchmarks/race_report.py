"""What a race of `benchmarks.race` came to: a table for a terminal or README, and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from benchmarks.figures import save
from gemkern.report.console import short
from gemkern.report.figures import COLOURS

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
    """Write accuracy against seconds as a figure: the courses, and where the contenders end.

    Args:
        found: a result file of `benchmarks.race`.
        stem: where figures go, to be ended by their names.
    """
    runs = found["runs"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    course, end = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, of_one in by_contender(runs).items():
        colour = COLOURS.get(name, CHEAP_COLOUR)
        _draw_course(course, name, of_one, colour)
        _draw_end(end, name, of_one, colour)
    course.set(title="on the way: searching faint, finetuning strong")
    course.set(ylabel="validation accuracy, %")
    end.set(title="found and finetuned, mean ± std", ylabel="test accuracy, %")
    for axis in (course, end):
        axis.set(xlabel="seconds of training", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    return [save(figure, stem.with_name(f"{stem.name}-accuracy.png"), runs)]


def _draw_course(axis: Axes, name: str, runs: Sequence[Row], colour: str) -> None:
    """Draw the mean over seeds: faint where it searches, strong where it finetunes."""
    seconds, percent = (
        [fmean(epoch) for epoch in zip(*(one["course"][field] for one in runs), strict=True)]
        for field in ("seconds", "validation_accuracy")
    )
    percent = [100 * accuracy for accuracy in percent]
    searched = runs[0]["find_epochs"]
    axis.plot(seconds[:searched], percent[:searched], color=colour, lw=0.8, alpha=0.35)
    axis.plot(seconds[searched:], percent[searched:], color=colour, lw=2, label=name)


def _draw_end(axis: Axes, name: str, runs: Sequence[Row], colour: str) -> None:
    seconds = [total_seconds(one) for one in runs]
    percent = [100 * one["accuracy_after"] for one in runs]
    spread = {} if len(runs) == 1 else {"xerr": stdev(seconds), "yerr": stdev(percent)}
    axis.errorbar(
        fmean(seconds), fmean(percent), fmt="o", color=colour, label=name, capsize=3, **spread
    )
