"""Pages of documentation name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from gemkern.tickets import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_of_methods_has_a_line_for_each() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(named) == sorted(METHODS)


def test_the_page_of_methods_names_settings_that_there_are() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    settings = {name for entry in METHODS.values() for name in vars(entry.settings())}
    prefixes = re.findall(r"`(\w+_)`", text)
    assert len(prefixes) > 15
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in settings), prefix
