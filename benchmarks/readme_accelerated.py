"""README's tables of what acceleration comes to in whole races."""

from __future__ import annotations

from typing import Any

from gemkern.experiments.records import Run
from gemkern.experiments.summary import summarise


def accelerated(kept: dict[str, Any], dense: dict[str, Any]) -> str:
    """Return the methods of a race beside those of the same race without acceleration.

    Raises:
        AssertionError: the two are not the same race, or not one with and one without.
    """
    assert _race(kept) == _race(dense), "the two races differ in more than acceleration"
    assert not _is_dense(kept)
    assert _is_dense(dense)
    lines = [
        "| method | steps run | find<br>s | total<br>s | faster by | accuracy<br>after % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    fast, slow = ({row["method"]: row for row in _rows(one)} for one in (kept, dense))
    for method, base in slow.items():
        lines.append(f"| {method} | dense | {_cells(base, base)} |")
        lines.append(f"| {method} | accelerated | {_cells(fast[method], base)} |")
    return "\n".join(lines) + "\n"


def _race(kept: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kept["config"].items() if key != "accelerate"}


def _is_dense(kept: dict[str, Any]) -> bool:
    # Before choices had names they were true and false.
    return kept["config"]["accelerate"] in ("never", False)


def _rows(kept: dict[str, Any]) -> list[dict[str, Any]]:
    return summarise([Run(**run) for run in kept["runs"]])


def _cells(row: dict[str, Any], base: dict[str, Any]) -> str:
    """Return seconds, how many times faster than `base`, and the accuracy with its spread."""
    spread = row["accuracy_after_std"]
    accuracy = f"{100 * row['accuracy_after']:.2f}"
    return " | ".join(
        (
            f"{row['find_seconds']:.1f}",
            f"{row['total_seconds']:.1f}",
            f"{base['total_seconds'] / row['total_seconds']:.1f}",
            accuracy if spread is None else f"{accuracy}±{100 * spread:.2f}",
        )
    )
