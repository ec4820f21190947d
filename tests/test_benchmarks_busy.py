"""Steps are timed beside processes that are busy, by how threads wait."""

from __future__ import annotations

import io
import os

import pytest

from benchmarks import busy


def children() -> set[str]:
    """Return the numbers of this process's children."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())


def test_busy_processes_last_as_long_as_the_body() -> None:
    before = children()
    with busy.busy(2):
        assert len(children() - before) == 2
    assert children() <= before


def test_every_line_is_answered_with_the_times_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "SECONDS_A_TURN", 0.0)
    steps: list[int] = []
    told = io.StringIO()
    busy.answer(lambda: steps.append(1), io.StringIO("\n\n"), told)
    assert len(steps) == busy.WARM_UP + 2
    assert [float(line) >= 0 for line in told.getvalue().splitlines()] == [True, True]


def test_each_way_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"passive": busy.WAYS["passive"], "short spin": busy.WAYS["short spin"]}
    monkeypatch.setattr(busy, "WAYS", ways)
    monkeypatch.setattr(busy, "CASES", {"ResNet-8, batch 32": busy.CASES["ResNet-8, batch 32"]})
    monkeypatch.setattr(busy, "CONTENDERS", {"dense": "contiguous"})
    monkeypatch.setattr(busy, "BUSY", (1,))
    before = children()
    found = list(busy.rows(turns=2))
    assert [(row.way, row.busy) for row in found] == [("passive", 1), ("short spin", 1)]
    assert all(row.quartiles[0] <= row.ms <= row.quartiles[1] for row in found)
    assert children() <= before
