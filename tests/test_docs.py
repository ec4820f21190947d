"""Pages of documentation name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gemkern.tickets import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html"]
    done = subprocess.run([*command, str(DOCS), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in tmp_path.glob("*.html")}
    assert pages >= {path.stem for path in DOCS.glob("*.md")}
    reference = (tmp_path / "reference.html").read_text(encoding="utf-8")
    for name in ("GemMiner", "MaskedConv2d", "accelerate", "race"):
        assert f"gemkern.{name}" in reference or f'id="gemkern.{name}"' in reference


def test_the_page_of_methods_has_a_line_and_a_section_for_each() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(named) == sorted(METHODS)
    sections = re.findall(r"^### `([\w-]+)`$", text, re.MULTILINE)
    assert sorted(sections) == sorted(METHODS)


def test_the_page_of_methods_names_settings_that_there_are() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    settings = {name for entry in METHODS.values() for name in vars(entry.settings())}
    prefixes = re.findall(r"`(\w+_)`", text)
    assert len(prefixes) > 15
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in settings), prefix


def test_every_promise_has_its_test() -> None:
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert len(named) >= 8
    for path in named:
        assert (DOCS.parent / path).is_file(), path
