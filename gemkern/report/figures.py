"""The picture of a race: accuracy against time, density against epochs, density layer by layer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Phase, Run
from gemkern.files import write_atomically
from gemkern.tickets import METHODS, Ticket

# Those of the first methods are out of Okabe and Ito's palette, for colour-blind readers too.
COLOURS = {name: entry.colour for name, entry in METHODS.items()}
OTHER_COLOURS = ("#5A5A5A", "#B2B2B2")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES: dict[Phase, str] = {"find": "--", "finetune": "-"}
WIDTHS: dict[Phase, float] = {"find": 1.2, "finetune": 2.0}
LEVELS: dict[Phase, float] = {"find": 2.0, "finetune": 3.0}
WORDS: dict[Phase, str] = {"find": "searching", "finetune": "finetuning"}

SIZE_INCHES = (10.0, 7.6)
TICKET_INCHES = (10.0, 4.0)
DOTS_PER_INCH = 160
TEXT_POINTS = 10
LEGEND_COLUMNS = 6
LAYER_LABELS = 40
# Time is drawn on a log axis where the slowest method takes this many times the fastest's.
LOG_FROM_RATIO = 10.0


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
    _draw_accuracy(panels["accuracy"], epochs, colours)
    _draw_density(panels["density"], epochs, colours)
    _draw_layers(panels["layers"], runs, colours)
    for axes in panels.values():
        _tidy(axes)
    legend = figure.legend(
        handles=_legend(colours),
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
    _without_formulas(axes.legend(frameon=False, fontsize=TEXT_POINTS))
    _tidy(axes)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _without_formulas(legend: Legend) -> None:
    """Let a dollar in a name begin no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colours(methods: Iterable[str]) -> dict[str, str]:
    others = cycle(OTHER_COLOURS)
    return {method: COLOURS.get(method) or next(others) for method in dict.fromkeys(methods)}


def _legend(colours: dict[str, str]) -> list[Line2D]:
    methods = [Line2D([], [], color=colour, lw=2, label=name) for name, colour in colours.items()]
    phases = [
        Line2D([], [], color="0.4", lw=WIDTHS[phase], ls=style, label=WORDS[phase])
        for phase, style in STYLES.items()
    ]
    return methods + phases


def _draw_accuracy(axes: Axes, epochs: Sequence[EpochRecord], colours: dict[str, str]) -> None:
    """Thin lines: single seeds. Thick lines: means over seeds, epoch by epoch."""
    for method, phase, seeds in _curves(epochs):
        for seed in seeds if len(seeds) > 1 else []:
            x = [record.seconds for record in seed]
            y = [100 * record.validation_accuracy for record in seed]
            axes.plot(x, y, color=colours[method], lw=0.5, alpha=0.4, zorder=1)
        together = list(zip(*seeds, strict=False))
        x = [fmean(record.seconds for record in epoch) for epoch in together]
        y = [100 * fmean(record.validation_accuracy for record in epoch) for epoch in together]
        _plot_mean(axes, x, y, colours[method], method, phase)
    if _slowest_over_fastest(epochs) >= LOG_FROM_RATIO:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    axes.set_xlabel("training time, s")
    axes.set_ylabel("validation accuracy, %")


def _draw_density(axes: Axes, epochs: Sequence[EpochRecord], colours: dict[str, str]) -> None:
    searched = {
        method: len(seeds[0]) for method, phase, seeds in _curves(epochs) if phase == "find"
    }
    for method, phase, seeds in _curves(epochs):
        begin = searched.get(method, 0) if phase == "finetune" else 0
        together = list(zip(*seeds, strict=False))
        x = [begin + number for number in range(1, len(together) + 1)]
        y = [100 * fmean(record.density for record in epoch) for epoch in together]
        _plot_mean(axes, x, y, colours[method], method, phase)
    _log(axes)
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


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    shown = range(0, len(layers), 1 + len(layers) // LAYER_LABELS)
    names = [layers[index] for index in shown]
    # A dollar in a name begins no formula.
    axes.set_xticks(shown, names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_ylabel("density of the layer, %")


def _plot_mean(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, method: str, phase: Phase
) -> None:
    axes.plot(
        x,
        y,
        color=colour,
        lw=WIDTHS[phase],
        ls=STYLES[phase],
        zorder=LEVELS[phase],
        label=f"{method} {phase}",
        marker="o" if len(x) == 1 else "",
        ms=4,
    )


def _curves(
    epochs: Sequence[EpochRecord],
) -> Iterator[tuple[str, Phase, list[list[EpochRecord]]]]:
    """Every method and phase that left records, with the records of each of its seeds.

    Seeds may differ in length: zipped, they end with the shortest.
    """
    curves: dict[tuple[str, Phase], dict[int, list[EpochRecord]]] = {}
    for record in epochs:
        seeds = curves.setdefault((record.method, record.phase), {})
        seeds.setdefault(record.seed, []).append(record)
    for (method, phase), seeds in curves.items():
        yield method, phase, list(seeds.values())


def _slowest_over_fastest(epochs: Sequence[EpochRecord]) -> float:
    ends: dict[str, float] = {}
    for record in epochs:
        ends[record.method] = max(ends.get(record.method, 0.0), record.seconds)
    return max(ends.values()) / min(ends.values()) if min(ends.values()) > 0 else 1.0


def _log_with_zero(axes: Axes, values: Sequence[float]) -> None:
    """A log axis; where `values` hold zeros, with a short linear foot from 0 to the smallest."""
    positive = [value for value in values if value > 0]
    if positive and 0 in values:
        foot = 10 ** math.floor(math.log10(min(positive)))
        axes.set_yscale("symlog", linthresh=foot, linscale=0.3)
        axes.set_ylim(bottom=0)
        _plain_numbers(axes.yaxis)
    elif positive:
        _log(axes)


def _log(axes: Axes) -> None:
    """A log axis with numbers beside it, be it shorter than a decade."""
    axes.set_yscale("log", subs=())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TEXT_POINTS - 1)
    axes.xaxis.label.set_fontsize(TEXT_POINTS)
    axes.yaxis.label.set_fontsize(TEXT_POINTS)
