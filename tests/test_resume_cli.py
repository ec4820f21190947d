"""Runs of the command line that are stopped, killed, repeated and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import call, fail_at, wait_for

from benchmarks.soak.subjects import outcome
from gemkern.experiments.run_folder import RunFolder
from gemkern.tickets import METHODS, Entry, Start

# Each starts processes that import PyTorch, on cores that may be busy.
pytestmark = pytest.mark.timeout(900)

SHORT = [
    "--data", "digits", "--train-limit", "128", "--density", "0.3", "--device", "cpu",
    "--set", "batch_size=32", "--set", "mine_epochs=3", "--set", "freeze_every=1",
    "--set", "imp_epochs=1", "--set", "imp_prune=0.5", "--set", "finetune_epochs=2",
    "--set", "accelerate=never",
]  # fmt: skip
RACE = ["race", *SHORT, "--methods", "gem-miner,random,dense", "--seeds", "1"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_command_again_says_so_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "race"
    assert call(monkeypatch, *RACE, "--out", out) == 0
    before = files(out)
    assert call(monkeypatch, *RACE, "--out", out) == 2
    said = capfd.readouterr().err
    assert "already holds the results.json of a run, of which 3 of 3 jobs are finished" in said
    assert "--resume" in said
    assert files(out) == before
    assert call(monkeypatch, *RACE, "--out", out, "--resume") == 0
    assert outcome(out)["results.json"][0]["left"] == []
    assert call(monkeypatch, "race", "--out", out, "--resume") == 0
    assert "gem-miner" in capfd.readouterr().out


def test_resume_where_nothing_was_begun_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, *RACE, "--out", tmp_path / "new", "--resume") == 0
    assert len(RunFolder.load(tmp_path / "new").runs()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "finetune_lr=0.5"], "finetune_lr=0.1 where finetune_lr=0.5 is asked"),
        (["--methods", "dense"], "a run of other methods or seeds"),
    ],
)
def test_another_race_is_not_gone_on_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    assert call(monkeypatch, *RACE, "--out", tmp_path) == 0
    before = files(tmp_path)
    assert call(monkeypatch, *RACE, *changes, "--out", tmp_path, "--resume") == 2
    assert message in capfd.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["race", "mine"])
def test_a_signal_ends_with_one_line_that_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, command: str
) -> None:
    words = RACE if command == "race" else ["mine", *SHORT]
    words = [*words, "--set", "mine_epochs=400"]
    out = tmp_path / "a folder"
    process = subprocess.Popen(
        [sys.executable, "-m", "gemkern", *words, "--out", out],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    epochs_file = out / "epochs.jsonl"
    wait_for(lambda: epochs_file.exists() and bool(epochs_file.read_text()), process, 200)
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130
    last = errors.strip().splitlines()[-1]
    assert last == f"gemkern: stopped; go on with: gemkern {command} --out '{out}' --resume"
    assert "Traceback" not in errors
    results = json.loads((out / "results.json").read_text())
    assert len(results["left"]) == (3 if command == "race" else 1)
    records = len((out / "epochs.jsonl").read_text().splitlines())
    assert records >= 1
    # It goes on where it was: short epochs by the hundred are not trained again.
    process = subprocess.Popen(
        [sys.executable, "-m", "gemkern", command, "--out", out, "--resume"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(epochs_file.read_text().splitlines()) > records + 1, process, 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 130
    epochs = [record.epoch for record in RunFolder.load(out).epochs()]
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_job_that_fails_does_not_take_the_race_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pruned = METHODS["imp"]
    fail_at(monkeypatch, "imp", 1, ZeroDivisionError("by chance"))
    words = [*SHORT, "--methods", "imp,dense", "--seeds", "2"]
    assert call(monkeypatch, "race", *words, "--out", tmp_path) == 1
    shown = capfd.readouterr().out
    assert "imp, seed 1, failed: ZeroDivisionError: by chance" in " ".join(shown.split())
    folder = RunFolder.load(tmp_path)
    assert [(run.method, run.seed) for run in folder.runs()] == [
        ("imp", 0), ("dense", 0), ("dense", 1),
    ]  # fmt: skip
    (failure,) = folder.failures()
    assert (failure.method, list(failure.seeds)) == ("imp", [1])
    # Mended, it is tried again, and nothing else is.
    (untouched,) = tmp_path.glob("jobs/dense-*-seed0-*/result.json")
    before = untouched.stat().st_mtime_ns
    monkeypatch.setitem(METHODS, "imp", pruned)
    assert call(monkeypatch, "race", "--out", tmp_path, "--resume") == 0
    assert untouched.stat().st_mtime_ns == before
    assert not RunFolder.load(tmp_path).failures()


def test_what_needs_a_ticket_that_failed_fails_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(start: Start) -> Any:
        raise ZeroDivisionError

    mined = METHODS["gem-miner"]
    # The rehearsals take the calls that work.
    calls = iter([mined.make, mined.make, *[broken] * 9])
    entry = Entry(lambda start: next(calls)(start), mined.colour, mined.settings, mined.init)
    monkeypatch.setitem(METHODS, "gem-miner", entry)
    assert call(monkeypatch, *RACE, "--out", tmp_path) == 1
    whys = {one.method: one.why for one in RunFolder.load(tmp_path).failures()}
    assert set(whys) == {"gem-miner", "random"}
    assert "needs the ticket of gem-miner, whose job is failed" in whys["random"]


def test_a_job_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, split = tmp_path / "alone", tmp_path / "split"
    assert call(monkeypatch, *RACE, "--out", alone) == 0
    # What a race makes before its first step is enough for other machines.
    monkeypatch.setattr("gemkern.cli.holding.run_in_turn", lambda *given, **options: None)
    call(monkeypatch, *RACE, "--out", split)
    monkeypatch.undo()
    folder = RunFolder.load(split)
    jobs = [folder.folder_of(job).path for job in folder.jobs()]
    random_first = sorted(jobs, key=lambda path: "random" not in path.name)
    assert call(monkeypatch, "job", random_first[0]) == 2, "it needs a ticket that is not there"
    for path in jobs:
        assert call(monkeypatch, "job", path) == 0
    assert call(monkeypatch, "race", "--out", split, "--resume") == 0
    assert outcome(split) == outcome(alone)


@pytest.mark.timeout(2400)
def test_a_soak_loses_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--kills", "10"],
        capture_output=True, text=True, env=environment, timeout=2300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 kills" in done.stdout
    assert re.search(r"[1-9]\d* compared, 0 lost, 0 different", done.stdout), done.stdout
