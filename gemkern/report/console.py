"""The numbers of a race, and the tables that show them in a terminal or on a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gemkern.experiments.records import Failure, Run
from gemkern.experiments.summary import by_method, gains, paired_gain, summarise
from gemkern.report.cells import cell

NONE = "-"
SETTINGS_COLUMNS = 2
# Standard errors below this are left-overs of float arithmetic between equal gains.
ROUNDING = 1e-9
HEADERS = (
    "method",
    "density\n%",
    "accuracy\nbefore %",
    "accuracy\nafter %",
    "epochs\nfind+tune",
    "find\ns",
    "total\ns",
    "step\nms",
    "speed\nfind",
    "speed\ntotal",
)


def race_table(
    runs: Sequence[Run], reference: str = "imp", failures: Sequence[Failure] = ()
) -> Table:
    """`summarise` for a terminal, and a row for each job that failed.

    In 80 columns names of methods may fold, numbers are whole.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        caption=_caption(runs, reference),
        caption_justify="left",
    )
    method, *numbers = HEADERS
    table.add_column(method, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in summarise(runs, reference):
        table.add_row(*map(cell, _cells(row)))
    for failure in failures:
        table.add_row(cell(failure.what), cell("failed"))
    return table


def markdown_table(runs: Sequence[Run], reference: str = "imp") -> str:
    """`summarise` as a GitHub Markdown table, ending in a newline."""
    lines = [
        [header.replace("\n", "<br>") for header in HEADERS],
        ["---"] + ["---:"] * (len(HEADERS) - 1),
        *(_cells(row) for row in summarise(runs, reference)),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def gain_table(
    runs: Sequence[Run], method: str = "gem-miner", rivals: Iterable[str] | None = None
) -> Table:
    """One sentence a rival: `paired_gain` in words.

    Without `rivals`: every other method that shares a seed with `method`; perhaps none.

    Raises:
        GemkernError: no seed was run with both.
    """
    if rivals is None:
        rivals = [name for name in by_method(runs) if name != method and gains(runs, method, name)]
    table = Table.grid()
    for rival in rivals:
        table.add_row(cell(_gain_sentence(runs, method, rival)))
    return table


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Names and values, read column by column; a long value is folded, never cut."""
    entries = [(cell(name, style="bold"), cell(_setting(settings[name]))) for name in settings]
    height = math.ceil(len(entries) / SETTINGS_COLUMNS)
    columns = [entries[start : start + height] for start in range(0, len(entries), height or 1)]
    table = Table.grid(padding=(0, 3, 0, 0))
    for _ in columns:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    for row in zip_longest(*columns, fillvalue=(Text(), Text())):
        table.add_row(*chain.from_iterable(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    """One row of HEADERS."""
    return [
        row["method"],
        f"{100 * row['density']:.2f}",
        _accuracy(row["accuracy_before"], row["accuracy_before_std"]),
        _accuracy(row["accuracy_after"], row["accuracy_after_std"]),
        f"{row['find_epochs']:g}+{row['finetune_epochs']:g}",
        short(row["find_seconds"]),
        short(row["total_seconds"]),
        short(row["step_ms"]),
        _speedup(row["find_speedup"]),
        _speedup(row["total_speedup"]),
    ]


def _caption(runs: Sequence[Run], reference: str) -> str:
    counts = sorted({len(of_method) for of_method in by_method(runs).values()})
    return (
        f"Seeds: {' or '.join(map(str, counts))}; ± is one sample standard deviation.\n"
        f"Speed: seconds of {reference} / seconds of the method."
    )


def _gain_sentence(runs: Sequence[Run], method: str, rival: str) -> str:
    gain, error = paired_gain(runs, method, rival)
    seeds = len(gains(runs, method, rival))
    sentence = (
        f"{method} {'beats' if gain >= 0 else 'trails'} {rival} by {100 * abs(gain):.2f} points"
    )
    if error is not None:
        sentence += f" ± {100 * error:.2f}"
    if error is not None and error > ROUNDING:
        sentence += f" ({abs(gain) / error:.1f} standard errors)"
    return f"{sentence} over {seeds} {'seed' if seeds == 1 else 'seeds'}"


def _setting(value: Any) -> str:
    if value is None:
        return NONE
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _accuracy(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f}±{100 * std:.2f}"


def short(value: float) -> str:
    """Seconds or milliseconds in five characters, up to 99999."""
    digits = 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:.{digits}f}"


def _speedup(value: float | None) -> str:
    return NONE if value is None else f"{value:.{1 if value < 1000 else 0}f}x"
