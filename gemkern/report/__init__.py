"""What people see of a run: tables, figures, and the folder that it leaves behind."""

from gemkern.report.console import (
    gain_table,
    markdown_table,
    paired_gain,
    race_table,
    settings_table,
    summarise,
)
from gemkern.report.environment import devices, info, versions
from gemkern.report.figures import draw_race, race_figure
from gemkern.report.run_folder import RunFolder
from gemkern.report.savings import savings_markdown, savings_table

__all__ = [
    "RunFolder",
    "devices",
    "draw_race",
    "gain_table",
    "info",
    "markdown_table",
    "paired_gain",
    "race_figure",
    "race_table",
    "savings_markdown",
    "savings_table",
    "settings_table",
    "summarise",
    "versions",
]
