"""The picture of a race: accuracy against time, density against epochs, density layer by layer."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Run
from gemkern.files import write_atomically
from gemkern.report.courses import curves, draw_courses, draw_ends, draw_line, legend_of
from gemkern.report.scales import log_scale, plain_numbers
from gemkern.tickets import METHODS, Ticket

# Those of the first methods are out of Okabe and Ito's palette, for colour-blind readers too.
COLOURS = {name: entry.colour for name, entry in METHODS.items()}
OTHER_COLOURS = ("#5A5A5A", "#B2B2B2")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SIZE_INCHES = (10.0, 7.6)
TICKET_INCHES = (10.0, 4.0)
DOTS_PER_INCH = 160
TEXT_POINTS = 10
LEGEND_COLUMNS = 6
LAYER_LABELS = 40


def race_figure(
    runs: Sequence[Run], epochs: Sequence[EpochRecord], path: str | os.PathLike[str]
) -> None:
    """Write `draw_race` as a PNG.

    Raises:
        GemkernError: there is nothing to draw, or the file cannot be written.
    """
    figure = draw_race(runs, epochs)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def draw_race(runs: Sequence[Run], epochs: Sequence[EpochRecord]) -> Figure:
    """Three panels, one colour a method; matplotlib's global state stays as it is.

    Raises:
        GemkernError: there is nothing to draw.
    """
    if not runs or not epochs:
        raise GemkernError("nothing to draw; give the runs and the epochs of at least one method")
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic([["accuracy", "density"], ["layers", "layers"]])
    colours = _colours([*(run.method for run in runs), *(epoch.method for epoch in epochs)])
    draw_courses(panels["accuracy"], epochs, colours)
    draw_ends(panels["accuracy"], runs, colours)
    _draw_density(panels["density"], epochs, colours)
    _draw_layers(panels["layers"], runs, colours)
    for axes in panels.values():
        _tidy(axes)
    legend = figure.legend(
        handles=legend_of(colours),
        loc="outside upper center",
        ncols=LEGEND_COLUMNS,
        frameon=False,
        fontsize=TEXT_POINTS,
    )
    _without_formulas(legend)
    return figure


def ticket_figure(tickets: Mapping[str, Ticket], path: str | os.PathLike[str]) -> None:
    """Write the densities of tickets, layer by layer, as a PNG.

    Args:
        tickets: by the names under which they are drawn.

    Raises:
        GemkernError: the file cannot be written.
    """
    figure = Figure(figsize=TICKET_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    layers = list(dict.fromkeys(name for ticket in tickets.values() for name in ticket.masks))
    values = []
    for (name, ticket), marker in zip(tickets.items(), cycle(MARKERS), strict=False):
        own = [100 * ticket.layer_density.get(layer, math.nan) for layer in layers]
        axes.plot(range(len(layers)), own, marker=marker, ls=":", label=name)
        values += [value for value in own if not math.isnan(value)]
    _log_with_zero(axes, values)
    _name_layers(axes, layers)
    legend = figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=TEXT_POINTS)
    _without_formulas(legend)
    _tidy(axes)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _without_formulas(legend: Legend) -> None:
    """Let a dollar in a name begin no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colours(methods: Iterable[str]) -> dict[str, str]:
    others = cycle(OTHER_COLOURS)
    return {method: COLOURS.get(method) or next(others) for method in dict.fromkeys(methods)}


def _draw_density(axes: Axes, epochs: Sequence[EpochRecord], colours: dict[str, str]) -> None:
    searched = {method: len(seeds[0]) for method, phase, seeds in curves(epochs) if phase == "find"}
    for method, phase, seeds in curves(epochs):
        begin = searched.get(method, 0) if phase == "finetune" else 0
        together = list(zip(*seeds, strict=False))
        x = [begin + number for number in range(1, len(together) + 1)]
        y = [100 * fmean(record.density for record in epoch) for epoch in together]
        draw_line(axes, x, y, (method, phase), colours)
    log_scale(axes, "y")
    axes.set_xlabel("epochs since the start")
    axes.set_ylabel("density, %")


def _draw_layers(axes: Axes, runs: Sequence[Run], colours: dict[str, str]) -> None:
    """Means over seeds. A layer with nothing left stands at 0, under the log axis."""
    layers = list(dict.fromkeys(name for run in runs for name in run.layer_density))
    tickets: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if run.layer_density:
            tickets.setdefault(run.method, []).append(run.layer_density)
    drawn: list[float] = []
    for (method, seeds), marker in zip(tickets.items(), cycle(MARKERS), strict=False):
        y = [100 * fmean(seed.get(name, math.nan) for seed in seeds) for name in layers]
        (line,) = axes.plot(y, color=colours[method], lw=1.0, marker=marker, ms=4.5, label=method)
        line.set_clip_on(False)
        drawn += y
    _log_with_zero(axes, drawn)
    _name_layers(axes, layers)


def short_names(layers: Sequence[str]) -> list[str]:
    """Return names of layers without words that hold no number, where that tells them apart.

    `stages.0.1.conv2` is `0.1.conv2`.
    """
    short = [re.sub(r"\b[^\d.]+\.", "", name) for name in layers]
    return [one if short.count(one) == 1 else name for one, name in zip(short, layers, strict=True)]


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    shown = range(0, len(layers), 1 + len(layers) // LAYER_LABELS)
    short = short_names(layers)
    names = [short[index] for index in shown]
    # A dollar in a name begins no formula.
    axes.set_xticks(shown, names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_ylabel("density of the layer, %")


def _log_with_zero(axes: Axes, values: Sequence[float]) -> None:
    """A log axis; where `values` hold zeros, with a short linear foot from 0 to the smallest."""
    positive = [value for value in values if value > 0]
    if positive and 0 in values:
        foot = 10 ** math.floor(math.log10(min(positive)))
        axes.set_yscale("symlog", linthresh=foot, linscale=0.3)
        axes.set_ylim(bottom=0)
        plain_numbers(axes.yaxis)
    elif positive:
        log_scale(axes, "y")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TEXT_POINTS - 1)
    axes.xaxis.label.set_fontsize(TEXT_POINTS)
    axes.yaxis.label.set_fontsize(TEXT_POINTS)
