"""The table of peers: how many times faster than each, geometric means over layers."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import geometric_mean
from typing import Any

from benchmarks.cpu_layers import LAYOUTS
from benchmarks.peers.contenders import CSR, DENSE, OURS, SPARSEPROP
from benchmarks.result_files import source

USES = "convolution", "drop-in layer", "linear layer"
PEERS = SPARSEPROP, CSR, DENSE
Row = Mapping[str, Any]


def markdown(kept: Mapping[str, Any]) -> str:
    """Return the table: a line for a use, a pass and a batch, a column for a peer and a density."""
    densities = sorted({row["density"] for row in kept["rows"]})
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in kept["rows"]:
        groups.setdefault((row["use"], row["which"], row["batch"]), []).append(row)
    heads = [f"{peer}<br>{100 * density:g} %" for peer in PEERS for density in densities]
    lines = [
        f"| use | layers | batch | {' | '.join(heads)} |",
        "| --- | ---: | ---: |" + " ---: |" * len(heads),
    ]
    for (use, which, batch), found in groups.items():
        layers = len({row["of"] for row in found})
        cells = [
            _mean([row for row in found if row["density"] == density], peer)
            for peer in PEERS
            for density in densities
        ]
        lines.append(f"| {use}, {which} | {layers} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def block(name: str, kept: Mapping[str, Any]) -> str:
    """Return the table for a page, with what it was measured by and on."""
    origin = source(name, kept, kept["devices"][0])
    return (
        f"{markdown(kept)}\n`{kept['command']}`: medians, geometric means over layers; {origin}\n"
    )


def _mean(rows: list[Row], peer: str) -> str:
    """Return how many times faster ours is than a peer; nothing where that did not take part."""
    ratios = [min(found) / row["ms"][OURS] for row in rows if (found := _times(row["ms"], peer))]
    return f"{geometric_mean(ratios):.2f}x" if ratios else "-"


def _times(ms: Mapping[str, float], peer: str) -> list[float]:
    names = (DENSE, *LAYOUTS) if peer == DENSE else (peer,)
    return [ms[name] for name in names if name in ms]
