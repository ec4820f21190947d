"""What people see of a run: tables, figures, and the folder that it leaves behind."""

from gemkern.report.console import (
    gain_table,
    markdown_table,
    race_table,
    settings_table,
)
from gemkern.report.environment import devices, info, versions
from gemkern.report.figures import draw_race, race_figure, ticket_figure
from gemkern.report.paper_table import paper_table
from gemkern.report.savings import savings_table
from gemkern.report.show import jobs_table, overlap_table, ticket_table
from gemkern.report.verdict import verdict_table

__all__ = [
    "devices",
    "draw_race",
    "gain_table",
    "info",
    "jobs_table",
    "markdown_table",
    "overlap_table",
    "paper_table",
    "race_figure",
    "race_table",
    "savings_table",
    "settings_table",
    "ticket_figure",
    "ticket_table",
    "verdict_table",
    "versions",
]
