"""Accuracy against seconds: the way of each method, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gemkern.experiments.records import EpochRecord, Phase, Run
from gemkern.report.scales import log_scale

STYLES: dict[Phase, str] = {"find": "--", "finetune": "-"}
WORDS: dict[Phase, str] = {"find": "searching", "finetune": "finetuning"}
ENDS = "finetuned"
KEY = "lines: validation, best epochs; points: test"
TITLE_POINTS = 9
LINE_WIDTH = 1.0
# Time is drawn on a log axis where the slowest method takes this many times the fastest's.
LOG_FROM_RATIO = 10.0


def draw_courses(axes: Axes, epochs: Sequence[EpochRecord], colours: Mapping[str, str]) -> None:
    """Draw one thin line a method and phase, through the best of its epochs.

    A search that prunes on its way has a dot for each density, which is a round of IMP: epochs in
    between begin with what pruning or a rewind left. Lines are means over seeds.
    """
    for method, phase, seeds in curves(epochs):
        points, pruned = _bests(seeds)
        seconds = [second for second, _ in points]
        percent = [100 * accuracy for _, accuracy in points]
        draw_line(axes, seconds, percent, (method, phase), colours, dots=pruned)
    if _slowest_over_fastest(epochs) >= LOG_FROM_RATIO:
        log_scale(axes, "x")
    axes.set(xlabel="training time, s", ylabel="accuracy, %")
    axes.set_title(KEY, fontsize=TITLE_POINTS)


def draw_line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    of: tuple[str, Phase],
    colours: Mapping[str, str],
    dots: bool = False,
) -> None:
    """Draw a line in the colour of a method and the style of a phase; a point alone is a dot."""
    method, phase = of
    axes.plot(
        x,
        y,
        color=colours[method],
        lw=LINE_WIDTH,
        ls=STYLES[phase],
        label=f"{method} {phase}",
        marker="." if dots or len(x) == 1 else "",
    )


def draw_ends(axes: Axes, runs: Sequence[Run], colours: Mapping[str, str]) -> None:
    """Draw a point a method: test accuracy and seconds in all, mean and deviation over seeds."""
    for method, own in groupby(sorted(runs, key=lambda run: run.method), lambda run: run.method):
        ends = [(run.find_seconds + run.finetune_seconds, 100 * run.accuracy_after) for run in own]
        seconds, percent = zip(*ends, strict=True)
        spread = {} if len(ends) == 1 else {"xerr": stdev(seconds), "yerr": stdev(percent)}
        axes.errorbar(
            fmean(seconds),
            fmean(percent),
            fmt="o",
            color=colours[method],
            capsize=3,
            zorder=3,
            label=method,
            **spread,
        )
    axes.set(xlabel="training time, s", ylabel="accuracy, %")


def legend_of(colours: Mapping[str, str]) -> list[Line2D]:
    """Return what a legend shows: a colour a method, then the lines and the point."""
    methods = [Line2D([], [], color=colour, lw=2, label=name) for name, colour in colours.items()]
    lines = [
        Line2D([], [], color="0.4", lw=LINE_WIDTH, ls=style, label=WORDS[phase])
        for phase, style in STYLES.items()
    ]
    return [*methods, *lines, Line2D([], [], color="0.4", marker="o", ls="", label=ENDS)]


def curves(
    epochs: Sequence[EpochRecord],
) -> Iterator[tuple[str, Phase, list[list[EpochRecord]]]]:
    """Every method and phase that left records, with the records of each of its seeds.

    Seeds may differ in length: zipped, they end with the shortest.
    """
    found: dict[tuple[str, Phase], dict[int, list[EpochRecord]]] = {}
    for record in epochs:
        seeds = found.setdefault((record.method, record.phase), {})
        seeds.setdefault(record.seed, []).append(record)
    for (method, phase), seeds in found.items():
        yield method, phase, list(seeds.values())


def _bests(seeds: Sequence[Sequence[EpochRecord]]) -> tuple[list[tuple[float, float]], bool]:
    """Return seconds and accuracies of the best epochs, and whether there was a density to each."""
    means = [
        (
            fmean(record.seconds for record in epoch),
            fmean(record.validation_accuracy for record in epoch),
            epoch[0].density,
        )
        for epoch in zip(*seeds, strict=False)
    ]
    densities = [list(stage) for _, stage in groupby(means, lambda epoch: epoch[2])]
    if len(densities) > 1:
        return [max(stage, key=lambda epoch: epoch[1])[:2] for stage in densities], True
    so_far = accumulate((accuracy for _, accuracy, _ in means), max)
    return [(epoch[0], best) for epoch, best in zip(means, so_far, strict=True)], False


def _slowest_over_fastest(epochs: Sequence[EpochRecord]) -> float:
    ends: dict[str, float] = {}
    for record in epochs:
        ends[record.method] = max(ends.get(record.method, 0.0), record.seconds)
    return max(ends.values()) / min(ends.values()) if min(ends.values()) > 0 else 1.0
