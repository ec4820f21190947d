"""The table of a schedule's seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.result_files import source, used

Row = Mapping[str, Any]
SHORT = "imp-short"
HEADS = (
    "method", "way of computing", "epochs<br>find + finetune", "find<br>hours",
    "with finetuning<br>hours", "IMP in this way<br>takes to find", "and with<br>finetuning",
    "IMP in the<br>authors' way", "and with<br>finetuning",
)  # fmt: skip
AUTHORS = "authors' way"


def block(name: str, found: Row) -> str:
    """Return the table with where it is from; its name says which machine that is."""
    check = found.get("check")
    checked = (
        ""
        if check is None
        else f"A search of {check['budget']:g} of the epochs took {check['every_step']:.0f} s with "
        f"every step, and {check['walked']:.0f} s by this way of counting.\n\n"
    )
    return f"{markdown(found)}\n{checked}{source(name, found, used('cpu', found['devices']))}\n"


def markdown(found: Row) -> str:
    """Return the table as GitHub Markdown."""
    rows = [*found["rows"], *_short(found)]
    hours = {(row["method"], row["way"]): _hours(row, found) for row in rows}
    lines = [f"| {' | '.join(HEADS)} |", "| --- | --- |" + " ---: |" * (len(HEADS) - 2)]
    for row in rows:
        find, whole = hours[row["method"], row["way"]]
        slow = [
            f"{theirs[0] / ours[0]:.1f}x"
            for way in (row["way"], AUTHORS)
            for theirs, ours in zip(hours["imp", way], (find, whole), strict=True)
        ]
        epochs = sum(visit["epochs"] for visit in row["find"]), row["finetune"]["epochs"]
        cells = (
            row["method"], row["way"], f"{epochs[0]} + {epochs[1]}",
            _spread(find), _spread(whole), *slow,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(found: Row) -> list[dict[str, Any]]:
    """Return the rows of IMP in short rounds, which has the same densities."""
    short = found["imp_short_epochs"]
    return [
        {**row, "method": SHORT, "find": [{**visit, "epochs": short} for visit in row["find"]]}
        for row in found["rows"]
        if row["method"] == "imp"
    ]


def _hours(row: Row, found: Row) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return hours to find, and with finetuning: by medians, first and third quartiles."""
    steps = found["steps_an_epoch"]

    def hours(visits: list[Row], which: int | None) -> float:
        times = (v["ms"] if which is None else v["quartiles"][which] for v in visits)
        ends = sum(visit["end_ms"] for visit in visits)
        milliseconds = sum(v["epochs"] * steps * ms for v, ms in zip(visits, times, strict=True))
        return (milliseconds + ends) / 3.6e6

    kinds = (None, 0, 1)
    find = tuple(hours(row["find"], kind) for kind in kinds)
    return find, tuple(hours([*row["find"], row["finetune"]], kind) for kind in kinds)


def _spread(hours: tuple[float, ...]) -> str:
    median, first, third = hours
    return f"{median:.2f} ({first:.2f} to {third:.2f})"
