"""What a comparison came to: tables for the documentation, and the figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.comparison import plan
from benchmarks.comparison.running import Row, best_of, runs_of
from benchmarks.figures import save
from benchmarks.race_report import total_seconds
from benchmarks.result_files import image, source, used
from gemkern.report.figures import COLOURS, MARKERS

FIGURE = "accuracy.png"
# Percent below the best that the figure reaches; what is worse is named in it.
POINTS_SHOWN = 12
# What a reader looks for first; the others are grey.
NAMED = (
    "dense", "gem-miner", "imp", "imp-short", "smart-ratio", "snip", "global-edge-popup",
    "random", "shuffled",
)  # fmt: skip
OTHERS_COLOUR = "0.75"
LINE_LETTERS = 60
NONE = "-"
Kept = Mapping[str, Any]


def steps_block(name: str, found: Kept) -> str:
    """Return the table of equal steps and the figure of accuracy against seconds."""
    header = ["method", "epochs find + finetune"]
    for density in plan.DENSITIES:
        at = f"{100 * density:g} %"
        header += [f"{at}: found", f"{at}: finetuned", f"{at}: seconds"]
    rows = found["runs"]
    lines = []
    for method in _methods(rows, "steps"):
        cells = [cell for density in plan.DENSITIES for cell in _cells(rows, method, density)]
        lines.append([method, _epochs(rows, method), *cells])
    return f"{_table(header, lines)}\n{_provenance(name, found)}\n\n{figure_block(name, found)}"


def figure_block(name: str, found: Kept) -> str:
    """Return the figure of accuracy against seconds alone."""
    return image("Accuracy against seconds at equal steps", f"{name}-{FIGURE}")


def seconds_block(name: str, found: Kept) -> str:
    """Return the table of equal seconds."""
    rows = found["runs"]
    densities = [d for d in plan.DENSITIES if runs_of(rows, "seconds", "gem-miner", d)]
    header = ["method"]
    for density in densities:
        at = f"{100 * density:g} %"
        header += [f"{at}: epochs", f"{at}: finetuned"]
    lines = []
    for method in _methods(rows, "seconds"):
        line = [method]
        for density in densities:
            ours = runs_of(rows, "seconds", method, density)
            line += (
                [str(ours[0]["epochs"]), _percent(ours, "accuracy_after")] if ours else [NONE] * 2
            )
        lines.append(line)
    return f"{_table(header, lines)}\n{_provenance(name, found)}"


def result_block(method: str, name: str, found: Kept) -> str:
    """Return what a method came to, in a line for the page of methods."""
    tables = {"steps": "[at equal steps]", "seconds": "[at equal seconds]"}
    parts = []
    for table, link in tables.items():
        ours = {d: runs_of(found["runs"], table, method, d) for d in plan.DENSITIES}
        cells = [
            f"{_percent(runs, 'accuracy_after')} (density {100 * density:g} %)"
            for density, runs in ours.items()
            if runs
        ]
        if cells:
            parts.append(f"{link} {' and '.join(cells)}")
    return f"Result here, percent after finetuning: {', '.join(parts)}.\n"


def tries_block(name: str, found: Kept) -> str:
    """Return the table of what was tried for each method, and what was best."""
    lines = []
    for method in _methods(found["runs"], "tries"):
        tries = runs_of(found["runs"], "tries", method, plan.DENSITY_OF_TRIES)
        best = best_of(tries)
        settings = ", ".join(f"{key} {value:g}" for key, value in best["chosen"].items())
        worst = min(row["validation_accuracy"] for row in tries)
        lines.append(
            [method, settings, f"{100 * best['validation_accuracy']:.1f}", f"{100 * worst:.1f}"]
        )
    header = ["method", "best of the tries", "its validation %", "validation % of the worst"]
    return f"{_table(header, lines)}\n{_provenance(name, found)}"


def draw(found: Kept, stem: Path) -> list[Path]:
    """Write accuracy against seconds at equal steps as a figure, a panel for each density."""
    rows = [row for row in found["runs"] if row["table"] == "steps"]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, len(plan.DENSITIES))
    for axis, density in zip(axes, plan.DENSITIES, strict=True):
        _panel(axis, rows, density)
    named = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    named["others, in the table"] = Line2D([], [], color=OTHERS_COLOUR, marker=".", ls="")
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=5, frameon=False)
    return [save(figure, stem.with_name(f"{stem.name}-{FIGURE}"), rows)]


def _panel(axis: Axes, rows: Sequence[Row], density: float) -> None:
    runs = {method: runs_of(rows, "steps", method, density) for method in _methods(rows, "steps")}
    means = {
        m: 100 * fmean(row["accuracy_after"] for row in ours) for m, ours in runs.items() if ours
    }
    least = max(means.values()) - POINTS_SHOWN
    shown = {method: mean for method, mean in means.items() if mean > least}
    for method in sorted(shown, key=lambda method: method in NAMED):
        style = {"color": OTHERS_COLOUR, "marker": ".", "zorder": 1}
        if method in NAMED:
            marker = MARKERS[NAMED.index(method) % len(MARKERS)]
            style = {"color": COLOURS[method], "marker": marker, "zorder": 2, "label": method}
        axis.errorbar(
            fmean(_seconds(runs[method])), shown[method],
            xerr=stdev(_seconds(runs[method])),
            yerr=stdev(100 * row["accuracy_after"] for row in runs[method]),
            ls="", markersize=7, capsize=2, elinewidth=1, **style,
        )  # fmt: skip
    lower = ", ".join(f"{method} {mean:.0f}" for method, mean in means.items() if mean <= least)
    label = "seconds to find and finetune"
    if lower:
        label += "\n" + textwrap.fill(f"lower: {lower} %", LINE_LETTERS)
    axis.set(title=f"density {100 * density:g} %", xlabel=label)
    axis.set(ylabel="test accuracy, %, mean ± std", ylim=(least, least + POINTS_SHOWN + 1))
    axis.grid(alpha=0.3)


def _methods(rows: Sequence[Row], table: str) -> list[str]:
    """Return the methods of a table, in the order of the plan, checks behind Gem-Miner."""
    there = {row["method"] for row in rows if row["table"] == table}
    order = [name for name in plan.GRIDS if name != "inverted"] + [*plan.CHECKS, "inverted"]
    return [name for name in order if name in there]


def _cells(rows: Sequence[Row], method: str, density: float) -> list[str]:
    ours = runs_of(rows, "steps", method, density)
    if not ours:
        return [NONE] * 3
    return [
        _percent(ours, "accuracy_before") if method != "dense" else NONE,
        _percent(ours, "accuracy_after"),
        _spread(_seconds(ours), digits=1),
    ]


def _epochs(rows: Sequence[Row], method: str) -> str:
    one = next(row for row in rows if row["table"] == "steps" and row["method"] == method)
    return f"{one['find_epochs']} + {one['finetune_epochs']}"


def _seconds(rows: Sequence[Row]) -> list[float]:
    return [total_seconds(row) for row in rows]


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.{digits}f}"


def _percent(rows: Sequence[Row], field: str) -> str:
    return _spread([100 * row[field] for row in rows], digits=2)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def _provenance(name: str, found: Kept) -> str:
    return source(name, found, used("cpu", found["devices"]))
