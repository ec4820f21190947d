"""`gemkern show` on runs in every state and on tickets, called as a user calls it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from command import call, fail_at

from gemkern.experiments.records import EpochRecord
from gemkern.tickets import Ticket

SHORT = [
    "--data", "digits", "--train-limit", "128", "--density", "0.3", "--device", "cpu",
    "--set", "batch_size=32", "--set", "mine_epochs=2", "--set", "freeze_every=1",
    "--set", "imp_epochs=1", "--set", "imp_prune=0.5", "--set", "finetune_epochs=1",
    "--set", "accelerate=never",
]  # fmt: skip
RACE = ["race", *SHORT, "--methods", "dense,gem-miner", "--seeds", "1"]
TICKET = "gem-miner-seed0.ticket.safetensors"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("a [red] race")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, *RACE, "--out", out) == 0
    (out / "race.png").unlink()
    return out


def a_ticket(path: Path, *weights: int) -> Path:
    """Write a ticket of a layer of 2 x 3 whose name looks like markup."""
    mask = torch.zeros(6, dtype=torch.bool)
    mask[list(weights)] = True
    Ticket({"layer[/red]": mask.view(2, 3)}, "net", "imp", 0, "", {}).save(path)
    return path


def states(shown: str) -> list[list[str]]:
    """Return the rows of jobs: method, seed and state."""
    words = "waiting|running|stopped|failed|finished"
    lines = [line.split() for line in shown.splitlines()]
    return [line[:3] for line in lines if len(line) == 7 and re.fullmatch(words, line[2])]


def test_a_finished_race(race: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    before = {path: path.stat().st_mtime_ns for path in race.rglob("*") if path.is_file()}
    assert call(monkeypatch, "show", race) == 0
    shown = capfd.readouterr().out
    command = json.loads((race / "config.json").read_text())["command"]
    assert shown.splitlines()[0] == command, "it can be copied"
    assert states(shown) == [["dense", "0", "finished"], ["gem-miner", "0", "finished"]]
    assert re.search(r"gem-miner +0 +finished +finetune +3 +30\.00", shown)
    assert re.search(r"dense +0 +finished +finetune +1 +100\.00", shown)
    assert "accuracy" in shown
    assert re.search(r"gem-miner (beats|trails) dense by", shown)
    assert shown.splitlines()[-1] == f"the picture is in {race}/race.png"
    assert (race / "race.png").read_bytes().startswith(b"\x89PNG")
    (race / "race.png").unlink()
    after = {path: path.stat().st_mtime_ns for path in race.rglob("*") if path.is_file()}
    assert after == before, "nothing else is written"


def test_a_run_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.setattr("gemkern.cli.holding.run_in_turn", lambda *given, **options: None)
    call(monkeypatch, *RACE, "--out", tmp_path)
    capfd.readouterr()
    assert call(monkeypatch, "show", tmp_path) == 0
    shown = capfd.readouterr().out
    assert states(shown) == [["dense", "0", "waiting"], ["gem-miner", "0", "waiting"]]
    assert "picture" not in shown
    assert not list(tmp_path.glob("*.png"))


def test_a_run_while_it_runs_and_after_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    shown = []

    @contextmanager
    def interrupted(*given: Any) -> Iterator[Any]:
        def on_epoch(record: EpochRecord) -> None:
            if record.method == "gem-miner":
                command = [sys.executable, "-m", "gemkern", "show", tmp_path]
                shown.append(subprocess.run(command, check=True, capture_output=True, text=True))
                os.kill(os.getpid(), signal.SIGINT)

        yield on_epoch

    monkeypatch.setattr("gemkern.cli.holding.progress", interrupted)
    assert call(monkeypatch, *RACE, "--out", tmp_path) == 130
    (while_it_ran,) = (done.stdout for done in shown)
    assert states(while_it_ran) == [["dense", "0", "finished"], ["gem-miner", "0", "running"]]
    assert re.search(r"gem-miner +0 +running +find +1 ", while_it_ran)
    assert f"the picture is in {tmp_path}/race.png" in while_it_ran
    capfd.readouterr()
    assert call(monkeypatch, "show", tmp_path) == 0
    stopped = capfd.readouterr().out
    assert states(stopped) == [["dense", "0", "finished"], ["gem-miner", "0", "stopped"]]


def test_a_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    fail_at(monkeypatch, "imp", 1, ZeroDivisionError("by [chance]"))
    words = [*SHORT, "--methods", "imp", "--seeds", "2"]
    assert call(monkeypatch, "race", *words, "--out", tmp_path) == 1
    capfd.readouterr()
    assert call(monkeypatch, "show", tmp_path) == 0
    shown = capfd.readouterr().out
    assert states(shown) == [["imp", "0", "finished"], ["imp", "1", "failed"]]
    assert "imp, seed 1, failed: ZeroDivisionError: by [chance]" in shown
    assert (tmp_path / "race.png").exists()


def test_a_search_alone_names_its_ticket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    assert call(monkeypatch, "mine", *SHORT, "--out", tmp_path) == 0
    capfd.readouterr()
    assert call(monkeypatch, "show", tmp_path) == 0
    shown = capfd.readouterr().out
    assert re.search(r"gem-miner +0 +finished +find +2 +30\.00", shown)
    assert shown.splitlines()[-1] == f"a ticket is in {tmp_path / TICKET}"


def test_a_ticket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    path = a_ticket(tmp_path / "one.ticket.safetensors", 0, 1)
    assert call(monkeypatch, "show", path) == 0
    shown = capfd.readouterr().out
    assert "imp of net, seed 0: 2 weights, 33.33 %" in shown
    assert "layer[/red] 2x3 2 33.33 1 of 2 1 of 3" in " ".join(shown.split())
    assert shown.splitlines()[-1] == f"the picture is in {tmp_path}/one.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name, "one.png"][::-1]


def test_two_tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    one = a_ticket(tmp_path / "one.ticket.safetensors", 0, 1)
    other = a_ticket(tmp_path / "other.ticket.safetensors", 1, 2, 3)
    picture = tmp_path / "pictures" / "both.png"
    assert call(monkeypatch, "show", one, other, "--picture", picture) == 0
    words = " ".join(capfd.readouterr().out.split())
    assert "layer[/red] 2x3 2 33.33 1 of 2 1 of 3" in words
    assert "layer[/red] 2x3 3 50.00 0 of 2 0 of 3" in words
    # By chance: 2 * 3 / 6 of the smaller one's 2.
    assert "layer[/red] 1 of 2 50.00 50.00 all 1 of 2 50.00 50.00" in words
    assert picture.exists()
    assert not list(tmp_path.glob("*.png"))


def test_a_ticket_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    path = a_ticket(tmp_path / "one.ticket.safetensors", 0, 1)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "show", path.name, path.name) == 0
    assert "all 2 of 2 100.00 33.33" in " ".join(capfd.readouterr().out.split())


def test_tickets_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [a_ticket(tmp_path / folder / "one.ticket.safetensors", 0) for folder in ("a", "b")]
    drawn = []
    monkeypatch.setattr(
        "gemkern.cli.looks.ticket_figure", lambda tickets, path: drawn.append(tickets)
    )
    assert call(monkeypatch, "show", *paths) == 0
    assert [list(tickets) for tickets in drawn] == [[str(path) for path in paths]]


@contextmanager
def read_only(monkeypatch: pytest.MonkeyPatch, place: Path) -> Iterator[None]:
    """Let the operating system refuse to write in `place`, whoever asks."""
    make = tempfile.mkstemp

    def refuse(**where: Any) -> tuple[int, str]:
        if Path(where["dir"]) == place:
            raise OSError(errno.EROFS, "Read-only file system")
        return make(**where)

    with monkeypatch.context() as patch:
        patch.setattr("gemkern.files.tempfile.mkstemp", refuse)
        yield


@pytest.mark.parametrize("what", ["race", "ticket"])
def test_in_a_place_that_cannot_be_written_the_picture_goes_elsewhere(
    what: str, race: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    shown, name = (race, "race.png") if what == "race" else (race / TICKET, "gem-miner-seed0.png")
    with read_only(monkeypatch, race):
        assert call(monkeypatch, "show", shown) == 2
        said = capfd.readouterr()
        assert "gem-miner" in said.out, "what can be shown is"
        assert said.err == (
            f"gemkern: could not write {race / name}: Read-only file system; free some space or "
            "choose a folder that can be written with --picture\n"
        )
        assert call(monkeypatch, "show", shown, "--picture", tmp_path / "x.png") == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"the picture is in {tmp_path}/x.png"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert not list(race.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "there is no ticket file missing: check the path"),
        (["good", "missing"], "there is no ticket file missing: check the path"),
        (["damaged"], "the ticket file damaged is damaged: it cannot be read as safetensors"),
        (["good", "cut"], "the ticket file cut is damaged: "),
        (["good", "empty"], "empty is a folder: give two ticket files to compare"),
        (["empty", "good"], "empty is a folder: give two ticket files to compare"),
        ([".", "good"], ". is a folder: give two ticket files to compare"),
        (["empty"], "empty holds no config.json; name a folder that a run was told with --out"),
        (["good", "wider"], "the tickets of net and net have different layers"),
        (["good", "--picture", "empty"], "could not write empty: "),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    good = a_ticket(Path("good"), 0)
    Path("cut").write_bytes(good.read_bytes()[:-3])
    Path("damaged").write_bytes(b"not a ticket")
    Path("empty").mkdir()
    wider = {"layer[/red]": torch.ones(2, 4, dtype=torch.bool)}
    Ticket(wider, "net", "imp", 0, "", {}).save("wider")
    assert call(monkeypatch, "show", *arguments) == 2
    said = capfd.readouterr()
    (sentence,) = said.err.splitlines()
    assert sentence.startswith(f"gemkern: {message}")
    if "--picture" not in arguments:
        assert said.out == ""
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["config.json", "jobs/dense-*/result.json", "jobs/*/epochs.jsonl"])
def test_a_damaged_run_is_one_sentence(
    name: str, race: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    copy = shutil.copytree(race, tmp_path / "copy")
    damaged = next(copy.glob(name))
    damaged.write_text("{\n")
    assert call(monkeypatch, "show", copy) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert f"{damaged} is damaged" in sentence
    assert not list(copy.glob("*.png"))


def test_jobs_that_ran_one_by_one_are_shown_before_they_are_gathered(
    race: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    copy = shutil.copytree(race, tmp_path / "copy")
    for name in ("results.json", "epochs.jsonl"):
        (copy / name).unlink()
    assert call(monkeypatch, "show", race, "--picture", tmp_path / "x.png") == 0
    gathered = capfd.readouterr().out.splitlines()
    assert call(monkeypatch, "show", copy, "--picture", tmp_path / "x.png") == 0
    assert capfd.readouterr().out.splitlines() == gathered
