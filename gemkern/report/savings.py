"""What acceleration saved, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from gemkern.experiments.records import Saving
from gemkern.report.cells import cell
from gemkern.report.console import short

HEADERS = (
    "accelerated",
    "phase",
    "steps",
    "dense\nstep ms",
    "accelerated\nstep ms",
    "faster\nby",
    "saved\ns",
)


def savings_table(savings: Sequence[Saving]) -> Table:
    """One row a method and phase: means over seeds, steps and seconds summed over them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1),
        caption=savings_sentence(savings),
        caption_justify="left",
    )
    for header in HEADERS:
        table.add_column(header, justify="left" if header in HEADERS[:2] else "right")
    for row in _rows(savings):
        table.add_row(*map(cell, row))
    return table


def savings_sentence(savings: Sequence[Saving]) -> str:
    """Say in one sentence what acceleration came to, a loss as well."""
    savings = [saving for saving in savings if saving.is_known]
    if not savings:
        return (
            "Nothing ran accelerated beside dense steps: those were faster, or nothing was to be "
            "measured."
        )
    seconds, steps = sum(saving.seconds for saving in savings), sum(s.steps for s in savings)
    if seconds < 0:
        return (
            f"Acceleration lost {-seconds:.1f} s over {steps} steps: "
            "leave it off with --set accelerate=never."
        )
    return f"Acceleration saved {seconds:.1f} s over {steps} steps."


def _rows(savings: Sequence[Saving]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[Saving]] = {}
    for saving in savings:
        if saving.is_known:
            groups.setdefault((saving.method, saving.phase), []).append(saving)
    return [[*key, *_numbers(group)] for key, group in groups.items()]


def _numbers(savings: Sequence[Saving]) -> list[str]:
    dense = fmean(saving.dense_ms for saving in savings)
    accelerated = fmean(saving.accelerated_ms for saving in savings)
    return [
        str(sum(saving.steps for saving in savings)),
        short(dense),
        short(accelerated),
        f"{dense / accelerated:.2f}x",
        f"{sum(saving.seconds for saving in savings):.1f}",
    ]
