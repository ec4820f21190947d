"""Epochs in TensorBoard's event files: all of them, each once, whatever happened to the run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gemkern.errors import GemkernError
from gemkern.experiments.logs import EVENTS, jsonl, tensorboard
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.run_folder import RunFolder

MINE = [
    "mine", "--data", "digits", "--train-limit", "128", "--density", "0.3", "--device", "cpu",
    "--set", "batch_size=32", "--set", "mine_epochs=4", "--set", "freeze_every=2",
    "--set", "accelerate=never",
]  # fmt: skip
VALUES = ("density", "loss", "validation_accuracy", "step_ms")
FIRST = EpochRecord("imp", 3, "find", 1, 0.75, 2.5, 0.125, 10.0, 1.5)
Points = dict[str, list[tuple[int, float]]]


def read(folder: Path) -> dict[str, Points]:
    """Return what TensorBoard shows: by run and value, its steps and numbers."""
    found = {}
    for run in {path.parent for path in folder.rglob("*tfevents*")}:
        events = EventAccumulator(str(run)).Reload()
        found[str(run.relative_to(folder))] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return found


def points(records: list[EpochRecord]) -> Points:
    return {
        value: [(one.epoch, pytest.approx(getattr(one, value))) for one in records]
        for value in VALUES
    }


def test_a_run_a_method_seed_and_phase(tmp_path: Path) -> None:
    records = [
        FIRST,
        replace(FIRST, epoch=2, density=0.5),
        replace(FIRST, seed=4),
        replace(FIRST, phase="finetune", loss=1.25),
        replace(FIRST, method="dense", phase="finetune"),
    ]
    with tensorboard(tmp_path) as log:
        for record in records:
            log(record)
    assert read(tmp_path / EVENTS) == {
        "imp/seed3/find": points(records[:2]),
        "imp/seed4/find": points(records[2:3]),
        "imp/seed3/finetune": points(records[3:4]),
        "dense/seed3/finetune": points(records[4:]),
    }


def test_what_is_trained_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    before = [replace(FIRST, epoch=number, loss=number) for number in (1, 2, 3, 4)]
    after = [replace(FIRST, epoch=number, loss=10 * number) for number in (3, 4, 5)]
    for part in (before, after):
        with tensorboard(tmp_path) as log:
            for record in part:
                log(record)
    assert read(tmp_path / EVENTS) == {"imp/seed3/find": points(before[:2] + after)}


def test_an_epoch_is_there_as_soon_as_it_has_ended(tmp_path: Path) -> None:
    with tensorboard(tmp_path) as log:
        log(FIRST)
        assert read(tmp_path / EVENTS) == {"imp/seed3/find": points([FIRST])}


def test_jsonl_writes_nothing_more(tmp_path: Path) -> None:
    with jsonl(tmp_path) as log:
        log(FIRST)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_stopped_and_goes_on_has_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*given: Any) -> Iterator[Any]:
        def on_epoch(record: EpochRecord) -> None:
            if record.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)

        yield on_epoch

    words = [*MINE, "--log", "tensorboard", "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr("gemkern.cli.holding.progress", interrupted)
        assert call(monkeypatch, *words) == 130
    folder = RunFolder.load(tmp_path)
    assert len(folder.epochs()) == 2
    assert read(tmp_path / EVENTS) == {"gem-miner/seed0/find": points(folder.epochs())}
    assert call(monkeypatch, *words, "--resume") == 0
    assert len(folder.epochs()) == 4
    assert read(tmp_path / EVENTS) == {"gem-miner/seed0/find": points(folder.epochs())}
    # What has finished is not logged again.
    assert call(monkeypatch, *words, "--resume") == 0
    assert read(tmp_path / EVENTS) == {"gem-miner/seed0/find": points(folder.epochs())}


def test_without_tensorboard_one_sentence_comes_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert call(monkeypatch, *MINE, "--log", "tensorboard", "--out", tmp_path) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        "gemkern: tensorboard is not installed: pip install gemkern[tensorboard], or leave --log "
        "out"
    )
    assert not list(tmp_path.iterdir())


def test_event_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text("in the way")
    with (
        tensorboard(tmp_path) as log,
        pytest.raises(GemkernError, match=rf"could not write {tmp_path / EVENTS}: .*; free some"),
    ):
        log(FIRST)


def test_another_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *MINE, "--log", "paper", "--out", tmp_path / "out") == 2
    assert capfd.readouterr().err == (
        "gemkern: no log is called 'paper': give --log jsonl or tensorboard\n"
    )
    assert not list(tmp_path.iterdir())
