"""The course of a CPU benchmark of rows: each is measured and printed, then all are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import result_files
from gemkern.nn import keep_freed_memory

Row = Mapping[str, Any]


def measure_and_keep(
    kind: str,
    layout: str,
    rows: Iterable[Row],
    words: Callable[[Row], str],
    markdown: Callable[[Mapping[str, Any]], str],
) -> Path:
    """Measure rows, which come as they are asked for; return the file KIND-MACHINE.json.

    Args:
        layout: of the images, in words.
        words, markdown: what is printed of a row, and of all.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    console, found = Console(width=120, highlight=False), []
    for row in rows:
        found.append(row)
        console.print(words(row))
    content = {
        **result_files.about(result_files.command(f"benchmarks.{kind}")),
        "dtype": "float32",
        "layout": layout,
        "rows": found,
    }
    console.print(markdown(content), markup=False)
    name = result_files.named(kind, result_files.used("cpu"))
    path = result_files.keep(result_files.RESULTS, name, content)
    console.print(f"kept in {path}")
    return path
