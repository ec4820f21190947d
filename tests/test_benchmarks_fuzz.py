"""Fuzzers find nothing in a few inputs of each, and notice what they are there to notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from benchmarks.fuzz import __main__ as command
from benchmarks.fuzz.child import Child, Outcome, judged, reading
from benchmarks.fuzz.fuzzers import FUZZERS
from benchmarks.fuzz.hunt import Failure, Fuzzer, Tally, fuzz
from benchmarks.fuzz.laying import lay
from gemkern.errors import GemkernError

# Processes are started that import PyTorch, on cores that may be busy.
pytestmark = pytest.mark.timeout(900)

A_FEW = 40


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child() as started:
        yield started


@pytest.mark.parametrize("fuzzer", FUZZERS, ids=lambda fuzzer: fuzzer.name)
def test_a_few_inputs_of_each_fuzzer(fuzzer: Fuzzer, child: Child) -> None:
    tally = fuzz(fuzzer, child, A_FEW, number=1)
    assert not tally.failures, "\n".join(command.failures(tally))
    assert tally.tried == A_FEW
    assert tally.accepted, "inputs that are all refused are refused at the door"
    assert tally.refused


def foreign(value: int, folder: Path) -> None:
    """A reader that has another exception for what is larger than 10."""
    if value > 10:
        raise KeyError(value)
    if value % 2:
        raise GemkernError("it is odd: give an even one")


def test_a_foreign_exception_is_counted_and_made_small(child: Child) -> None:
    tally = fuzz(Fuzzer("foreign", foreign, lambda: st.integers(0, 40)), child, 100, number=0)
    (failure,) = tally.failures.values()
    assert failure.smallest == "11"
    assert failure.outcome.what == "KeyError: 11"
    assert tally.tried == 100
    assert min(tally.accepted, tally.refused, tally.failed) > 5, "it goes on after a failure"


def test_a_seed_is_all_that_inputs_depend_on(child: Child) -> None:
    fuzzer = Fuzzer("foreign", foreign, lambda: st.integers(0, 40))
    first, again, other = (fuzz(fuzzer, child, 100, number) for number in (0, 0, 1))
    assert (first.accepted, first.refused) == (again.accepted, again.refused)
    assert (first.accepted, first.refused) != (other.accepted, other.refused)


def hangs(value: Any, folder: Path) -> None:
    time.sleep(600)


def dies(value: Any, folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def recurses(value: Any, folder: Path) -> None:
    recurses(value, folder)


def is_hungry(value: Any, folder: Path) -> None:
    bytearray(2**36)


def is_written(value: Any, folder: Path) -> None:
    with reading():
        (folder / "file").write_text("written")


def is_written_inside(value: Any, folder: Path) -> None:
    with reading(inside=folder):
        (folder / "file").write_text("written")


def is_run(value: Any, folder: Path) -> None:
    with reading():
        os.system("true")


@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        (recurses, "RecursionError: "),
        (is_hungry, "MemoryError: "),
        (is_written, "Wrong: it did more than read: open"),
        (is_run, "Wrong: it did more than read: os.system"),
        # These end the process, which is then started again.
        (dies, "the process died: SIGSEGV"),
        (hangs, "more than 0.5 seconds"),
    ],
)
def test_what_must_not_come_of_an_input_is_a_failure(attempt: Any, what: str, child: Child) -> None:
    outcome = child.attempt(attempt, None, seconds=0.5 if attempt is hangs else None)
    assert outcome.verdict == "failed"
    assert outcome.what.startswith(what)


def test_a_folder_may_be_written_to_where_that_is_said(child: Child) -> None:
    assert child.attempt(is_written_inside, None) == Outcome("accepted")


@pytest.mark.parametrize("message", ["", " ", 5000 * "long"])
def test_a_refusal_is_a_sentence(message: str, tmp_path: Path) -> None:
    def refuses(value: Any, folder: Path) -> None:
        raise GemkernError(message)

    assert judged(refuses, None, tmp_path).verdict == "failed"


def test_a_crash_is_made_small_only_as_long_as_there_is_time(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.fuzz.hunt.MOST_STARTS", 0)
    tally = fuzz(Fuzzer("dies", dies, lambda: st.integers(3, 9)), child, 2, number=0)
    assert tally.failed == tally.tried == 2


def test_all_is_said() -> None:
    failure = Failure(Outcome("failed", "KeyError: 11", "gemkern/a.py:1 read"), 500 * "x", 2)
    tallies = [Tally("one", 1000, 998, {"": failure}), Tally("two", 5, 6)]
    assert command.last_line(tallies) == (
        "2 fuzzers, 2,011 inputs, 1,005 accepted, 1,004 refused, 2 failed"
    )
    first, second = command.failures(tallies[0])
    assert first == "one: 2 times at gemkern/a.py:1 read: KeyError: 11"
    assert second == f"    smallest: {command.SHOWN * 'x'}"
    assert [fuzzer.name for fuzzer in command.chosen("idx,ticket")] == ["idx", "ticket"]
    assert command.chosen("") == list(FUZZERS)


def test_files_are_laid_inside_their_folder_each_place_once(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    lay(
        folder,
        {"a/0": b"first", "../out": b"", "a/b/../../../out": b"", "p": "pipe", "a/../p": b""},
    )
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["inside", "inside/a", "inside/a/0", "inside/p"]
