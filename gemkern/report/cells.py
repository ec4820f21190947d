"""What stands in tables."""

from __future__ import annotations

from rich.text import Text

from gemkern.errors import printable_lines


def cell(text: str, style: str = "") -> Text:
    """Return a text in which nothing is markup, and nothing is obeyed by a terminal."""
    return Text(printable_lines(text), style=style)
