"""Axes with plain numbers."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


def log_scale(axes: Axes, which: str) -> None:
    """Make the axis `which`, x or y, logarithmic, with numbers beside it within a decade too."""
    axes.set(**{f"{which}scale": "log"})
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(axis)


def plain_numbers(axis: Axis) -> None:
    """Write 400 and not 4 x 10^2."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
