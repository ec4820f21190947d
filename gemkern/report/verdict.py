"""What sanity checks say of tickets: a difference with its uncertainty, never a bare yes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from gemkern.experiments.records import Run
from gemkern.experiments.summary import gains, paired_gain
from gemkern.report.cells import cell

# Student's t, two-sided 95 %, by degrees of freedom; beyond the last it hardly changes.
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def verdict_table(runs: Sequence[Run], method: str, checks: Sequence[str]) -> Table:
    """Return a sentence for each check that was run with the seeds of `method`."""
    table = Table.grid()
    for check in checks:
        if gains(runs, method, check):
            table.add_row(cell(verdict(runs, method, check)))
    return table


def verdict(runs: Sequence[Run], method: str, check: str) -> str:
    """Return what the runs of a check say of a ticket: points of accuracy, 95 % interval, seeds.

    The interval is that of Student's t for the differences, seed by seed.

    Raises:
        GemkernError: no seed was run with both.
    """
    gain, error = paired_gain(runs, method, check)
    count = len(gains(runs, method, check))
    points = f"{100 * gain:+.2f} points"
    if error is None:
        return (
            f"{check}: {points} with one seed, which tells no uncertainty: give --seeds 3 or more"
        )
    reach = QUANTILES[min(count - 1, len(QUANTILES)) - 1] * error
    found = f"{points} (95 % interval {100 * (gain - reach):+.2f} to {100 * (gain + reach):+.2f}"
    found += f", standard error {100 * error:.2f}, {count} seeds)"
    if gain > reach:
        return f"{check}: the ticket knows more, {found}"
    if gain < -reach:
        return f"{check}: the ticket is worse, {found}"
    return f"{check}: no difference is seen, {found}"
