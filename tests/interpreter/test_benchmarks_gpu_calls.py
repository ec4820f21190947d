"""Calls of the GPU's benchmarks that lose the device, hang, or go on from what is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_graphs import RecordedGraphs
from rehearsals import Row, rows_of

from benchmarks.gpu import bench
from benchmarks.gpu.__main__ import supervise
from benchmarks.gpu.result import FAILED, MEASURED, NOT_MEASURED, Result
from benchmarks.gpu.timing import CAPTURED, CaptureFailed, Clock, WallClock, Work
from gemkern.errors import GemkernError


def test_what_does_not_fit_is_not_measured_and_can_follow(rehearsed: bench.Bench) -> None:
    rehearsed.seconds = 0
    late = rows_of(rehearsed, "ceilings")
    assert {(row["status"], row["reason"]) for row in late} == {(NOT_MEASURED, "out of time")}
    rehearsed.seconds = 600
    rehearsed.result.resume()
    assert {row["status"] for row in rows_of(rehearsed, "ceilings")} == {MEASURED}


def test_rows_of_other_code_are_not_taken_over(rehearsed: bench.Bench, tmp_path: Path) -> None:
    rows_of(rehearsed, "ceilings")
    with pytest.raises(GemkernError, match="measured with another commit: give a new folder"):
        Result(tmp_path / "gpu.json", {"commit": "abc"}).resume()


def test_a_lost_device_ends_the_process_and_its_row_is_not_tried_again(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(of: bench.Bench, name: str) -> Row:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(WallClock, "alive", lambda clock: False)
    row = bench.Row(fault, name="fault")
    with pytest.raises(bench.DeviceLost, match="fault: RuntimeError: an illegal memory access"):
        bench.run_section(rehearsed, "faults", lambda of: [row])
    rehearsed.result.resume()
    bench.run_section(rehearsed, "faults", lambda of: [row])


CAPTURED_SECTIONS = ("graphs", "elementwise", "selection", "step")


@pytest.mark.parametrize("section", CAPTURED_SECTIONS)
def test_whatever_is_captured_can_be(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    """Ours and their rivals', as strictly as a stream that is captured."""

    def captured(clock: Clock, call: Callable[[], object]) -> Callable[[], object]:
        for _ in range(clock.warmups):
            call()
        return RecordedGraphs().capture(call)

    monkeypatch.setattr(WallClock, "captured", captured)
    rows = rows_of(rehearsed, section)
    assert {row["status"] for row in rows} == {MEASURED}, [row.get("reason") for row in rows]
    assert not any(row.get("without") for row in rows)
    if section != "graphs":
        assert any(CAPTURED in name for row in rows for name in (*row["times"], row["name"]))


def test_who_cannot_be_captured_is_left_out_in_another_process(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is measured again without him; and again without the next."""

    def captured(clock: Clock, call: Callable[[], object]) -> Callable[[], object]:
        if call in (broken, spoilt):
            raise CaptureFailed("a number of the host")
        return call

    def broken() -> None: ...

    def spoilt() -> None: ...

    racing = {"ours": int, "broken": broken, "spoilt": spoilt}
    works = {name: Work(call, CAPTURED) for name, call in racing.items()}
    monkeypatch.setattr(WallClock, "captured", captured)
    row = bench.Row(lambda of, name: of.clock.race(works), name="row")
    for left in (1, 2):
        with pytest.raises(bench.DeviceLost, match="races, row: not captured: a number of the"):
            bench.run_section(rehearsed, "races", lambda of: [row])
        entry = rehearsed.result.find("races", "row")
        assert entry["status"] == NOT_MEASURED
        assert len(entry["barred"]) == left
        rehearsed.clock = WallClock()
    bench.run_section(rehearsed, "races", lambda of: [row])
    entry = rehearsed.result.find("races", "row")
    assert entry["status"] == MEASURED
    assert list(entry["times"]) == ["ours"]
    assert entry["without"] == dict.fromkeys(("broken", "spoilt"), "a number of the host")


def test_a_check_that_cannot_be_captured_has_failed(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(of: bench.Bench, name: str) -> Row:
        raise CaptureFailed("no graph")

    monkeypatch.setattr(WallClock, "alive", lambda clock: False)
    with pytest.raises(bench.DeviceLost, match="not captured: no graph"):
        bench.run_section(rehearsed, "graphs", lambda of: [bench.Row(check, name="x")])
    assert rehearsed.result.find("graphs", "x")["status"] == FAILED


def test_a_contender_that_dropped_out_may_have_taken_the_device_with_it(
    rehearsed: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("launch failure")

    works = {"ours": Work(int), "theirs": Work(broken)}
    monkeypatch.setattr(WallClock, "alive", lambda clock: False)
    row = bench.Row(lambda of, name: of.clock.race(works), name="row")
    with pytest.raises(bench.DeviceLost, match="launch failure"):
        bench.run_section(rehearsed, "races", lambda of: [row])
    assert rehearsed.result.find("races", "row")["status"] == MEASURED


def gpus(*names: str) -> Row:
    cpu = {"device": "cpu", "name": "EPYC", "torch_threads": len(names)}
    return {
        "devices": [cpu, *({"device": "cuda:0", "name": name, "memory_bytes": 1} for name in names)]
    }


def test_another_host_with_the_same_gpu_goes_on(rehearsed: bench.Bench, tmp_path: Path) -> None:
    rehearsed.result.about = gpus("H200")
    rows_of(rehearsed, "ceilings")
    other = gpus("H200")
    other["devices"][0] |= {"name": "Xeon", "torch_threads": 16}
    resumed = Result(tmp_path / "gpu.json", other)
    resumed.resume()
    assert resumed.of("ceilings") == rehearsed.result.of("ceilings")
    with pytest.raises(GemkernError, match="another GPU"):
        Result(tmp_path / "gpu.json", gpus("H100")).resume()
    elsewhere = Result(tmp_path / "empty" / "gpu.json", gpus("H200"))
    elsewhere.resume(tmp_path / "gpu.json")
    assert elsewhere.of("ceilings") == resumed.of("ceilings")


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Supervise processes that run lines of Python, `again` being true in all but the first."""
    path, start = tmp_path / "gpu.json", subprocess.Popen

    def supervised(lines: str, seconds: float = 60.0) -> int:
        head = f"import os, sys, time, pathlib; path = pathlib.Path({str(path)!r}); "
        head += "again = '--resume' in sys.argv; "

        def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return start([sys.executable, "-c", head + lines, *command[3:]], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)
        return supervise(path, [], time.monotonic() + seconds)

    return supervised


@pytest.mark.parametrize("end", ["os._exit(75)", "os.abort()"])
def test_another_process_goes_on_where_one_was_lost(worker: Callable[[str], int], end: str) -> None:
    assert worker(f"path.write_text('a row') if not again else None; again or {end}") == 0


def test_what_ends_before_its_first_row_is_not_begun_again(worker: Callable[[str], int]) -> None:
    assert worker("os.abort()") == 1
    assert worker("sys.exit(3)") == 3


def test_what_hangs_makes_room(
    worker: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.__main__.HUNG", 2.0)
    assert worker("path.write_text('a row') if not again else None; again or time.sleep(99)") == 0
