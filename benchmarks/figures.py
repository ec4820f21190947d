"""Draw how the cost of a training step grows, from what `benchmarks.cpu` has kept.

`python -m benchmarks.readme` draws them with README's tables. A figure holds the digest of the rows
that it is drawn from, so that a test can tell whether it is of the results that are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from gemkern.files import write_atomically
from gemkern.report.scales import log_scale

DENSITY_FIGURE, SIZE_FIGURE = "density.png", "size.png"
BATCH, DENSITY = 128, 0.0144
WIDTHS = {"resnet20": 1, "resnet20-2x": 2, "resnet20-4x": 4}
# What is drawn of a row, and how.
LINES = {
    "dense": {"color": "tab:gray", "marker": "s"},
    "sparse": {"color": "tab:blue", "marker": "o"},
    "floor": {"color": "black", "linestyle": ":"},
}
LABELS = {
    "dense": "dense",
    "sparse": "sparse",
    "floor": "floor: a copy of the bytes that a step moves",
}
UNITS = {"density": "density", "batch": "images a batch", "width": "width, times ResNet-20's"}
Row = dict[str, Any]


def draw(found: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write the figures of the training steps of a result file and return their paths.

    Args:
        found: a result file of `benchmarks.cpu`.
        stem: where figures go, to be ended by their names.
    """
    uniform = [row for row in found["steps"] if row["masks"] == "uniform"]
    figures = {
        DENSITY_FIGURE: [
            (f"{network}, batch {BATCH}", "density", _of(uniform, network, batch=BATCH))
            for network in ("resnet20", "vgg16")
        ],
        SIZE_FIGURE: [
            (
                f"resnet20, density {100 * DENSITY:g} %",
                "batch",
                _of(uniform, "resnet20", density=DENSITY),
            ),
            (
                f"resnet20, batch {BATCH}, density {100 * DENSITY:g} %",
                "width",
                _wide(uniform),
            ),
        ],
    }
    return [
        _figure(stem.with_name(f"{stem.name}-{name}"), panels) for name, panels in figures.items()
    ]


def digest(rows: Sequence[Any]) -> str:
    """Return what tells apart the rows that a figure is drawn from."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def digest_in(path: Path) -> str:
    """Return the digest that a figure holds."""
    with Image.open(path) as image:
        return str(image.info["Rows"])


def save(figure: Figure, path: Path, rows: Sequence[Any]) -> Path:
    """Write a figure with the digest of the rows that it is drawn from, and return its path."""
    metadata = {"Rows": digest(rows), "Software": ""}
    write_atomically(
        path, lambda place: figure.savefig(place, dpi=80, format="png", metadata=metadata)
    )
    return path


def _figure(path: Path, panels: Sequence[tuple[str, str, list[Row]]]) -> Path:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, name, rows) in zip(axes, panels, strict=True):
        _panel(axis, title, name, rows)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return save(figure, path, [rows for _, _, rows in panels])


def _panel(axis: Axes, title: str, name: str, rows: list[Row]) -> None:
    for line, style in LINES.items():
        axis.plot(
            [row[name] for row in rows], [row[line] for row in rows], label=LABELS[line], **style
        )
    axis.set(title=title, xlabel=UNITS[name], ylabel="milliseconds a step", xscale="log")
    log_scale(axis, "y")
    ticks = [row[name] for row in rows]
    labels = [f"{100 * tick:g} %" if name == "density" else str(tick) for tick in ticks]
    axis.set_xticks(ticks, labels, minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)


def _of(rows: Sequence[Row], network: str, **fixed: Any) -> list[Row]:
    """Return the rows of a network with these values, by density and batch."""
    found = [
        row
        for row in rows
        if row["network"] == network and all(row[key] == fixed[key] for key in fixed)
    ]
    return sorted(found, key=lambda row: (row["density"], row["batch"]))


def _wide(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the widths of ResNet-20, with their width."""
    found = (row for name in WIDTHS for row in _of(rows, name, batch=BATCH, density=DENSITY))
    return [row | {"width": WIDTHS[row["network"]]} for row in found]
