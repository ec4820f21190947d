"""The benchmark of the training loop, with graphs recorded on a CPU: no time of what is not so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_graphs import RecordedGraphs

from benchmarks.gpu import bench, shapes, trainer
from benchmarks.gpu.bars import bars, section_table
from benchmarks.gpu.captures import watched
from benchmarks.gpu.result import FAILED, MEASURED, NOT_MEASURED, Result
from benchmarks.gpu.timing import CAPTURED, NO_GRAPHS, QUANTILES, WallClock
from benchmarks.gpu.trainer import ALONE, EAGER, FINETUNING, MINING, TOGETHER, WAYS, Run, Way
from gemkern.training import EpochStats, graphs, weights

Row = dict[str, Any]
STEPS = 5
# A rehearsal's runs last two epochs.
REPLAYS = 2 * STEPS - graphs.WARM_UPS


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bench.Bench:
    # The masks are quicker in PyTorch than compiled, or interpreted.
    monkeypatch.setenv("GEMKERN_BACKEND", "reference")
    few = shapes.rehearsal()
    few = dataclasses.replace(few, images=STEPS * few.batch)
    result = Result(tmp_path / "gpu.json", {})
    return bench.Bench("cpu", few, WallClock(), result, seconds=600)


def recording(monkeypatch: pytest.MonkeyPatch, graphs_of_calls: RecordedGraphs) -> None:
    """Let the CPU's steps be captured, and weights be trained as they are on a CUDA device."""
    monkeypatch.setattr(graphs, "graphs_on", lambda device: graphs_of_calls)
    monkeypatch.setattr(weights, "on_cuda", lambda model: True)


def rows_of(of: bench.Bench, *methods: str) -> list[Row]:
    rows = [row for row in trainer.plan(of) if row.of["method"] in methods]
    bench.run_section(of, trainer.SECTION, lambda of: rows)
    return of.result.of(trainer.SECTION)


class MeasuredGraphs(RecordedGraphs):
    """Remembers how many steps each capture held."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        self.widest = 0
        replay = super().capture(call)
        self.widths.append(self.widest)
        return replay


@pytest.mark.parametrize("method", [MINING, FINETUNING])
def test_captured_training_is_timed_beside_eager_and_for_several_seeds(
    tiny: bench.Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    recorder = MeasuredGraphs()
    recording(monkeypatch, recorder)
    alone, together = rows_of(tiny, method)
    assert (alone["name"], together["name"]) == (
        f"resnet8 {method} alone",
        f"resnet8 {method} together",
    )
    for row, trained in ((alone, ALONE), (together, TOGETHER)):
        assert row["status"] == MEASURED, row
        assert list(row["times"]) == list(row["epochs"]) == list(WAYS[trained])
        for name, times in row["times"].items():
            assert set(times) == {*QUANTILES, "repetitions"}
            assert times["median_us"] > 0
            assert row["epochs"][name]["replayed"] == (0 if name == EAGER else REPLAYS)
            assert row["epochs"][name]["steps"] == STEPS
    assert recorder.widths == [1, 1, *(1, 2, 4), *(1, 2, 4)]
    assert section_table(tiny.result, trainer.SECTION).row_count == 2


class FailedGraphs(RecordedGraphs):
    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("the capture was invalidated")


@pytest.mark.parametrize("trained", [ALONE, TOGETHER])
@pytest.mark.parametrize("method", [MINING, FINETUNING])
def test_training_that_fell_back_to_eager_has_no_captured_time(
    tiny: bench.Bench, monkeypatch: pytest.MonkeyPatch, method: str, trained: str
) -> None:
    recording(monkeypatch, FailedGraphs())
    (row,) = [row for row in rows_of(tiny, method) if row["trained"] == trained]
    assert row["status"] == FAILED
    assert f"WrongResult: 0 steps were replayed, not {REPLAYS} " in row["reason"]
    assert "RuntimeError: the capture was invalidated" in row["reason"]
    assert "times" not in row


def test_a_method_that_cannot_be_captured_has_no_captured_time(
    tiny: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "graphs_on", lambda device: RecordedGraphs())
    for row in rows_of(tiny, FINETUNING):
        assert row["status"] == FAILED
        assert f"0 steps were replayed, not {REPLAYS} " in row["reason"]
        assert "it changes what a graph would read" in row["reason"]
        assert "times" not in row


class IdleGraphs(RecordedGraphs):
    """Replays that do nothing."""

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        super().capture(call)
        return lambda: None


def test_training_that_learns_something_else_is_not_timed(
    tiny: bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording(monkeypatch, IdleGraphs())
    for row in rows_of(tiny, MINING):
        assert row["status"] == FAILED
        assert "WrongResult: captured training, tensor 0: 2 of 2 differ" in row["reason"]
        assert "times" not in row


class ForgetfulGraphs(RecordedGraphs):
    """Captures, of steps side by side, the first alone."""

    forgets = False

    def side_by_side(self, calls: Sequence[Callable[[], None]]) -> None:
        super().side_by_side(calls[:1] if self.forgets else calls)

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        self.forgets = True
        try:
            return super().capture(call)
        finally:
            self.forgets = False


def test_every_seed_is_checked(tiny: bench.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    recording(monkeypatch, ForgetfulGraphs())
    _, together = rows_of(tiny, MINING)
    assert together["status"] == FAILED
    assert "WrongResult: captured, 2 seeds training" in together["reason"]


def test_without_graphs_there_is_no_captured_time(tiny: bench.Bench) -> None:
    alone, together = rows_of(tiny, MINING)
    assert (alone["status"], list(alone["times"])) == (MEASURED, [EAGER])
    assert alone["without"] == {CAPTURED: NO_GRAPHS}
    assert (together["status"], together["reason"]) == (NOT_MEASURED, NO_GRAPHS)


class TwiceClock(WallClock):
    repetitions = 2


class Told:
    """Stands for a school: runs whose epochs take given seconds, a seed."""

    def __init__(self, of: bench.Bench, *runs: Sequence[float]) -> None:
        self.bench = dataclasses.replace(of, clock=TwiceClock())
        self._runs = iter(runs)

    def steps(self, way: Way) -> int:
        return 100

    def train(self, way: Way) -> Run:
        epochs = [EpochStats(1 + i, 0.0, s, 100) for i, s in enumerate(next(self._runs))]
        return Run([], [epochs] * way.seeds, 7)


def test_a_time_is_of_one_step_of_one_seed_without_the_first_epoch(tiny: bench.Bench) -> None:
    told: Any = Told(
        tiny, (5.0, 1.0, 1.1, 1.2), (1.5, 0.5, 0.5, 0.6), (7.0, 1.3, 1.4, 1.5), (0.9, 0.5, 0.5, 0.7)
    )
    raced = trainer.race(told, {"one": Way(), "two": Way(2)})
    assert raced["times"]["one"] == {
        "p10_us": 10_000.0, "median_us": 12_000.0, "p90_us": 14_000.0, "repetitions": 6,
    }  # fmt: skip
    assert raced["times"]["two"]["median_us"] == 5_000.0
    assert raced["epochs"] == {
        "one": {"steps": 100, "added_s": 4.75, "replayed": 7},
        "two": {"steps": 100, "added_s": 1.4, "replayed": 7},
    }


def test_no_round_begins_late(tiny: bench.Bench) -> None:
    tiny.seconds = 0
    told: Any = Told(tiny, (5.0, 1.0, 1.1), (1.5, 0.5, 0.6))
    raced = trainer.race(told, {"one": Way(), "two": Way(2)})
    assert raced["times"]["two"]["repetitions"] == 2


def test_epochs_from_python_are_short() -> None:
    eager, captured = WAYS[ALONE][EAGER], WAYS[ALONE][CAPTURED]
    assert (eager.steps_of(50_000, 128), captured.steps_of(50_000, 128)) == (50, 390)
    assert eager.steps_of(256, 128) == 2


def test_watching_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    before = graphs.graphs_on
    with watched() as watch:
        assert graphs.graphs_on(torch.device("cpu")) is None
        graphs.logger.warning("no %s", "graph")
    assert graphs.graphs_on is before
    assert watch not in graphs.logger.handlers
    assert (watch.replays, watch.warnings) == (0, ["no graph"])


@pytest.mark.parametrize(("median", "verdict"), [(480.0, "met"), (510.0, "not met")])
def test_half_a_millisecond_a_step_is_a_bar(tmp_path: Path, median: float, verdict: str) -> None:
    result = Result(tmp_path / "gpu.json", {})
    of = bench.Bench("cpu", shapes.full(), WallClock(), result, seconds=600)
    name = next(row.name for row in trainer.plan(of))

    def bar() -> Row:
        (found,) = [bar for bar in bars(result) if "package's loop" in bar["claim"]]
        return found

    assert bar()["verdict"] == NOT_MEASURED
    times = {CAPTURED: {"median_us": median}, EAGER: {"median_us": 9000.0}}
    result.add(trainer.SECTION, name, {"status": MEASURED, "times": times})
    assert (bar()["value"], bar()["verdict"]) == (median / 1e3, verdict)
