"""The reference names all that is public, each with an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import gemkern as gk

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
PAGES = sorted(REFERENCE.glob("*.md"))
ROOMS = [gk, gk.nn, gk.ops, gk.optim, gk.tickets, gk.data, gk.models, gk.training]
EXAMPLE = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^##+ (.*)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """Return the text below each heading that is a name, by that name."""
    found: dict[str, str] = {}
    for page in PAGES:
        _, *parts = SECTION.split(page.read_text(encoding="utf-8"))
        for heading, text in zip(parts[::2], parts[1::2], strict=True):
            if heading.startswith("`"):
                assert heading.strip("`") not in found, f"{heading} has two sections"
                found[heading.strip("`")] = text
    return found


def public() -> Iterator[tuple[str, object]]:
    """Yield what users may call, by its name: the front door's and each room's.

    What has one name in several rooms is named with its room.
    """
    for room in ROOMS:
        for name in room.__all__:
            if not isinstance(value := getattr(room, name), ModuleType) and name != "__version__":
                yield (f"{room.__name__.split('.')[-1]}.{name}" if name == "NAMES" else name), value


SECTIONS, PUBLIC = sections(), dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_a_section_and_what_is_called_an_example(name: str) -> None:
    examples = "".join(EXAMPLE.findall(SECTIONS[name]))
    if inspect.isfunction(PUBLIC[name]):
        assert re.search(rf"\b{name}\(", examples), f"no example calls {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_as_printed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    # Of all that is no example the lines are kept, so that a failure names those of the page.
    kept, at = "", 0
    for block in EXAMPLE.finditer(text):
        kept += "\n" * text.count("\n", at, block.start(1)) + block[1]
        at = block.end(1)
    examples = doctest.DocTestParser().get_doctest(kept, {}, page.stem, str(page), 0)
    assert examples.examples
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    said: list[str] = []
    doctest.DocTestRunner(optionflags=options).run(examples, out=said.append)
    assert not said, "".join(said)
