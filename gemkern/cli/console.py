"""Where commands print."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from gemkern.errors import printable

# Whoever closed an output does not want to read it.
for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115

# A log has no width of its own: give it room for the widest table.
console = Console(width=None if sys.stdout.isatty() else 110)


def say(sentence: str) -> None:
    """Print a line that can be copied: nothing in it is markup, obeyed by a terminal, or broken."""
    console.out(printable(sentence))
