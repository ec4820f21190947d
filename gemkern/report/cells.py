"""What stands in tables."""

from __future__ import annotations

from rich.text import Text

from gemkern.errors import printable


def cell(text: str, style: str = "") -> Text:
    """Return a text in which nothing is markup, and nothing is obeyed by a terminal."""
    return Text("\n".join(map(printable, text.split("\n"))), style=style)
