"""The faults that tests have to notice are as they should be, and so is what tries them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from benchmarks.mutants import once
from benchmarks.mutants.__main__ import ROOT, chosen
from benchmarks.mutants.fault import Fault
from benchmarks.mutants.faults import ROOMS
from benchmarks.mutants.score import is_enough, report, tried
from benchmarks.mutants.workshop import Outcome, Workshop
from gemkern.errors import GemkernError

FAULTS = [fault for faults in ROOMS.values() for fault in faults]


@cache
def functions(file: Path) -> frozenset[str]:
    """Return the names of all functions and classes of a file, at any depth."""
    named = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, named))


def test_there_are_faults_in_every_room() -> None:
    assert len(FAULTS) >= 80
    assert all(len(faults) >= 10 for faults in ROOMS.values())
    assert len({(fault.path, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_fault_is_a_mistake_of_one_line_that_python_takes(room: str) -> None:
    for fault in ROOMS[room]:
        text = (ROOT / fault.path).read_text(encoding="utf-8")
        assert "\n" not in fault.old + fault.new
        changed = fault.put_into(text)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), str(fault)


@pytest.mark.parametrize("room", ROOMS)
def test_the_test_of_a_fault_is_there(room: str) -> None:
    suites = frozenset().union(*map(functions, (ROOT / "tests" / "suites").glob("*.py")))
    for fault in ROOMS[room]:
        file, *names = fault.test.split("::")
        there = functions(ROOT / file)
        for name in names:
            known = there | suites if names[0].startswith("Test") else there
            assert name.partition("[")[0] in known, fault.test


PROJECT = {
    "gemkern/__init__.py": "",
    "gemkern/kernels/__init__.py": "",
    "gemkern/sums.py": """\
LIMIT = 100


def total(numbers):
    return sum(numbers)


def halvings(number):
    count = 0
    while number > 1:
        number, count = number // 2, count + 1
    return count
""",
    "tests/test_sums.py": """\
from gemkern.sums import halvings, total


def test_total():
    assert total([1, 2]) == 3


def test_halvings():
    assert halvings(8) == 3
""",
}
SUMS = "gemkern/sums.py"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A copy of a tiny repository."""
    for name, text in PROJECT.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path / "root", check=True)
    return Workshop(tmp_path / "root", tmp_path / "copy", limit=10)


def test_a_copy_knows_what_becomes_of_a_fault(workshop: Workshop, tmp_path: Path) -> None:
    test = "tests/test_sums.py::test_total"
    assert workshop.check([test, "tests/test_sums.py::test_halvings"]).code == 0
    killed = Fault(SUMS, "sum(numbers)", "max(numbers)", test)
    assert workshop.attempt(killed).code == 1
    survived = Fault(SUMS, "LIMIT = 100", "LIMIT = 10", test)
    assert workshop.attempt(survived).code == 0, "the last fault is gone again"
    not_imported = Fault(SUMS, "LIMIT = 100", "LIMIT = HIGHEST", test)
    outcome = workshop.attempt(not_imported)
    assert outcome.code == once.NOT_IMPORTED
    assert "HIGHEST" in outcome.said
    nowhere = Fault(SUMS, "LIMIT = 100", "LIMIT = 10", "tests/test_sums.py::test_product")
    assert workshop.attempt(nowhere).code == 4
    with pytest.raises(GemkernError, match=f"'count' stands 4 times in {SUMS}"):
        workshop.attempt(Fault(SUMS, "count", "counts", test))
    for root in ("root", "copy"):
        assert (tmp_path / root / SUMS).read_text() == PROJECT[SUMS]


def test_a_fault_that_runs_for_ever_is_ended(workshop: Workshop) -> None:
    endless = Fault(
        SUMS, "number, count = number // 2", "number, count = number // 1",
        "tests/test_sums.py::test_halvings",
    )  # fmt: skip
    assert workshop.attempt(endless).code is None


def test_another_gemkern_than_that_of_the_copy_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert once.main("gemkern.errors") == once.ELSEWHERE


def test_what_git_does_not_know_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(GemkernError, match="git knows no files"):
        Workshop(tmp_path, tmp_path / "copy")


class Answers:
    """What comes of tests, as it is told."""

    def __init__(self, before: int | None = 0, **codes: int | None) -> None:
        self._before, self._codes = before, codes
        self.checked: list[list[str]] = []

    def check(self, tests: Sequence[str]) -> Outcome:
        self.checked.append(list(tests))
        return Outcome(self._before, "as they are")

    def attempt(self, fault: Fault) -> Outcome:
        return Outcome(self._codes[fault.old], "with a fault")


def a_fault(old: str, test: str = "tests/a.py::test_it") -> Fault:
    return Fault("gemkern/a.py", old, "", test)


def test_the_score_is_that_of_all_rooms() -> None:
    interpreted = "tests/interpreter/b.py::test_it"
    rooms = {
        "first": [a_fault("one"), a_fault("two"), a_fault("three", interpreted)],
        "second": [a_fault("four")],
        "third": [],
    }
    answers, heard = Answers(one=1, two=None, three=-11, four=0), []
    tallies = tried(rooms, [answers], heard.append)
    assert answers.checked == [["tests/a.py::test_it"], [interpreted]]
    assert len(heard) == 4
    *lines, last = report(tallies)
    assert [" ".join(line.split()) for line in lines[:2]] == [
        "first 3 faults, 3 killed, 0 survived",
        "second 1 faults, 0 killed, 1 survived",
    ]
    assert lines[2] == f"survived: {a_fault('four')}"
    assert last == "4 mutants, 3 killed, 1 survived, score 75.0 %"
    assert not is_enough(tallies)
    assert is_enough(tried({"first": rooms["first"]}, [answers, answers]))


@pytest.mark.parametrize("code", [2, 4, 5, once.NOT_IMPORTED, once.ELSEWHERE, -9])
def test_a_test_that_cannot_be_run_is_no_kill(code: int) -> None:
    rooms = {"only": [a_fault(f"{number}") for number in range(40)]}
    codes = {f"{number}": 1 for number in range(40)}
    tallies = tried(rooms, [Answers(**{**codes, "7": code})])
    *_, broken, last = report(tallies)
    assert broken.startswith("broken: gemkern/a.py: '7'")
    assert broken.endswith("with a fault")
    assert last == "40 mutants, 39 killed, 0 survived, score 97.5 %"
    assert not is_enough(tallies)


@pytest.mark.parametrize(("code", "what"), [(1, "ended with 1"), (None, "ran for too long")])
def test_tests_have_to_pass_where_there_is_no_fault(code: int | None, what: str) -> None:
    with pytest.raises(GemkernError, match=rf"{what} where there is none(.|\n)*as they are"):
        tried({"only": [a_fault("one")]}, [Answers(code, one=1)])


def test_a_few_can_be_chosen() -> None:
    some = chosen("popup", None, 0)
    assert {fault for faults in some.values() for fault in faults} == {
        fault for fault in FAULTS if "popup" in fault.path + fault.test
    }
    drawn, again, other = (chosen("", 5, seed) for seed in (0, 0, 1))
    assert sum(map(len, drawn.values())) == 5
    assert drawn == again != other
    with pytest.raises(GemkernError, match="no fault has 'nonsense' in"):
        chosen("nonsense", None, 0)
