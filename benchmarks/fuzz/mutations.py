"""The ways in which files that are whole are spoiled.

What is done to a file is plain data: an input is short, can be printed, and is the same in every
process. Places are taken modulo the length of what is spoiled.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypothesis import strategies as st

# Repeated blocks stay below this, so that inputs do.
MOST_BYTES = 2**18


class Edit(NamedTuple):
    """What is done to bytes: `put` over them, `insert`, `drop`, `repeat`, or `cut` off the rest."""

    kind: str
    place: int
    length: int
    content: bytes


EDITS = st.builds(
    Edit,
    st.sampled_from(("put", "insert", "drop", "repeat", "cut")),
    # Headers and ends are where lengths and checksums stand.
    st.integers(0, 63) | st.integers(-64, -1) | st.integers(0, 2**17),
    st.sampled_from((1, 2, 4, 30, 3000)),
    st.binary(min_size=1, max_size=4)
    | st.sampled_from(
        (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", b"\n", b'"')
    ),
)


def edits(most: int = 3) -> st.SearchStrategy[list[Edit]]:
    """Return lists of up to `most` edits."""
    return st.lists(EDITS, max_size=most)


def edited(content: bytes, done: Sequence[Edit]) -> bytes:
    """Return `content` after all edits, one after the other."""
    for edit in done:
        place = edit.place % (len(content) + 1)
        before, after = content[:place], content[place:]
        if edit.kind == "put":
            content = before + edit.content + after[len(edit.content) :]
        elif edit.kind == "insert":
            content = before + edit.content + after
        elif edit.kind == "drop":
            content = before + after[edit.length :]
        elif edit.kind == "cut":
            content = before
        else:
            times = 1 + edit.content[0]
            block = after[: edit.length]
            content = (before + block * times + after)[:MOST_BYTES]
    return content


@dataclass(frozen=True)
class Raw:
    """JSON's own text, of values that Python writes no JSON of."""

    text: str
    times: int = 1
    end: str = ""

    def __str__(self) -> str:
        return f"{self.times * self.text}{self.times * self.end}"


# What a terminal, a file system, an encoding or a counter may take amiss.
TEXTS = (
    "", "0", "1e3", "nan", "a\nb", "\x1b[2J", "a\0b", "\ud800", "\u202e", 300 * "x", "..", "/",
    "../../up", "/nowhere/at/all", "[red]", "$x$", "find", "dense", "imp", "cpu",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), [], {}, [[]], [0], ["a"], {"": None}, {"a": [1]},
    Raw("[", 3000, "]"), Raw('{"a":[', 40_000, "]}"), Raw("9", 5000), Raw("1e999"), *TEXTS,
)  # fmt: skip
ODD = st.sampled_from(VALUES) | st.integers(-3, 300) | st.floats(-2, 2) | st.text(max_size=6)


class Change(NamedTuple):
    """What is done to an entry of a tree: `set`, `drop`, or under another `name`."""

    kind: str
    place: int
    value: Any


CHANGES = st.builds(
    Change, st.just("set") | st.sampled_from(("drop", "name")), st.integers(0, 2**16), ODD
)


def changes(most: int = 3) -> st.SearchStrategy[list[Change]]:
    """Return lists of up to `most` changes."""
    return st.lists(CHANGES, max_size=most)


def changed(tree: Any, done: Sequence[Change]) -> Any:
    """Return a copy of a tree of JSON's types after all changes."""
    tree = copy.deepcopy(tree)
    for change in done:
        slots = _slots(tree)
        if not slots:
            break
        holder, key = slots[change.place % len(slots)]
        if change.kind == "set":
            # What is set twice may be set into itself.
            holder[key] = copy.deepcopy(change.value)
        elif change.kind == "drop" or isinstance(holder, list):
            del holder[key]
        else:
            holder[_name(change.value)] = holder.pop(key)
    return tree


def text_of(tree: Any) -> str:
    """Return the JSON of a tree, in which `Raw` stands as it is."""
    raws: list[Raw] = []

    def marked(value: Any) -> str:
        raws.append(value)
        return f"@@{len(raws) - 1}@@"

    text = json.dumps(tree, default=marked)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@@{number}@@"', str(raw))
    return text


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(type(value).__name__)


def _slots(tree: Any) -> list[tuple[Any, Any]]:
    """Return all entries, as what holds them and their key there."""
    found: list[tuple[Any, Any]] = []
    left = [tree]
    while left:
        holder = left.pop()
        if isinstance(holder, (dict, list)):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            left += [holder[key] for key in keys]
    return found
