"""Kill runs at random moments, go on with them, and compare what they end with.

python -m benchmarks.soak                     50 kills, a quarter of an hour on two cores
python -m benchmarks.soak --kills 10          a short one

Each of race, mine, imp and finetune runs once, dense and accelerated, left alone. Then it runs
again and is stopped at random moments, by SIGKILL, SIGTERM or SIGINT, also between the writing of a
checkpoint and its renaming, on a full disk, in a folder that cannot be written, with the newest
checkpoint cut off, and with a second process on the same folder, which has to be refused. After
each the same command goes on with --resume. In the end tickets, epochs and results have to be those
of the run that was left alone, to the bit, apart from times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

GOING_ON = "--resume"
TIMED = {"seconds", "step_ms", "find_seconds", "finetune_seconds", "total_seconds"}
# A checkpoint after every step or so: there is always one being written.
OFTEN = ("--set", "checkpoint_minutes=0.0005")
TINY = (
    "--data", "digits", "--train-limit", "128", "--density", "0.2", "--device", "cpu",
    "--set", "batch_size=32", "--set", "freeze_every=1", "--set", "mine_epochs=5",
    "--set", "finetune_epochs=3", "--set", "imp_epochs=2", "--set", "imp_prune=0.5",
    "--set", "imp_rewind=3", "--set", "score_optimizer=adam", "--set", "score_lr=0.05",
)  # fmt: skip
# One job alone lasts longer, so that there are moments to stop it at.
LONGER = (
    "--set", "mine_epochs=40", "--set", "freeze_every=5", "--set", "imp_epochs=12",
    "--set", "finetune_epochs=40",
)  # fmt: skip
# The sitecustomize of a process that is killed just before a file gets its name.
BETWEEN = """
import os, pathlib, signal
renames, last = [0], int(os.environ["SOAK_RENAMES"])
replace = pathlib.Path.replace
def stopped(self, target):
    renames[0] += 1
    if renames[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = stopped
"""
# Kills of a command that is tortured.
LEAST = 3
# What a process says that was asked to stop.
SAID = (
    b"gemkern: stopped; go on with: gemkern",
    b"gemkern: stopped before it began: give the same command again",
)
# How often a way is tried, each time at an earlier moment, until it meets a run that is under way.
TRIES = 8
# Of the stops, those that come while a command begins: imports, rehearsal, reading checkpoints.
BEGINNING = 0.2
# A process dies that was killed by a signal, or says that it was stopped.
STOPPED = 130
REFUSED = 2


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    refusals: int = 0
    compared: int = 0
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A command that is tortured: its words, without --out."""

    name: str
    words: tuple[str, ...]

    def run(self, out: Path, *more: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start the command."""
        command = [sys.executable, "-m", "gemkern", *self.words, "--out", str(out), *more]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
        )


def subjects(ticket: Path) -> list[Subject]:
    """Return all commands, dense and accelerated in turns."""
    words = {
        "race": ("race", "--methods", "gem-miner,imp,random,dense", "--seeds", "1", *TINY),
        "mine": ("mine", *TINY, *LONGER),
        "imp": ("imp", *TINY, *LONGER),
        "finetune": ("finetune", str(ticket), *_without_density(TINY), *LONGER),
    }
    found = []
    for choices in (("never", "always"), ("always", "never")):
        for i, (name, own) in enumerate(words.items()):
            chosen = f"accelerate={choices[i % 2]}"
            found.append(Subject(f"{name}, {chosen}", (*own, *OFTEN, "--set", chosen)))
    return found


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that a run came to, without its times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.ticket.safetensors")):
        found[path.name] = path.read_bytes()
    for name in ("results.json", "epochs.jsonl"):
        text = (folder / name).read_text()
        lines = text.splitlines() if name.endswith("jsonl") else [text]
        found[name] = _without_times([json.loads(line) for line in lines])
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {
            k: v for k, v in value.items() if k not in TIMED and not k.endswith(("_ms", "speedup"))
        }
        return {k: _without_times(v) for k, v in kept.items()}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _without_density(words: Sequence[str]) -> tuple[str, ...]:
    place = words.index("--density")
    return tuple(words[:place] + words[place + 2 :])


@dataclass(frozen=True)
class Pace:
    """How long a run takes that is left alone, in seconds."""

    beginning: float
    working: float


def left_alone(subject: Subject, folder: Path) -> Pace:
    """Run a command to its end; return its pace."""
    started = time.monotonic()
    process = subject.run(folder)
    _wait_for_checkpoint(process, folder, 0)
    working = time.monotonic()
    process.communicate()
    return Pace(working - started, time.monotonic() - working)


def _last_checkpoint(folder: Path) -> int:
    """Return when the newest checkpoint of a run was written, in nanoseconds; 0 where none was."""
    times = [0]
    for path in folder.glob("jobs/*/checkpoint-*"):
        # One that is older than two others goes at any moment.
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def _wait_for_checkpoint(process: subprocess.Popen[bytes], folder: Path, last: int) -> None:
    while process.poll() is None and _last_checkpoint(folder) <= last:
        time.sleep(0.01)


class Torture:
    """Stops runs of one command in all the ways there are.

    A stop counts where it met a run that was under way. A run that has ended is compared with the
    one that was left alone, and the next begins anew.
    """

    def __init__(
        self, subject: Subject, alone: Path, pace: Pace, numbers: random.Random, tally: Tally
    ) -> None:
        self._subject, self._alone, self._pace = subject, alone, pace
        self._out = alone.with_name(alone.name.replace("alone", "tortured"))
        self._numbers, self._tally = numbers, tally
        # How late in a run a stop may come: halved with every one that came too late.
        self._latest = 1.0
        self._ways: list[tuple[str, Callable[[], bool]]] = [
            ("SIGKILL", lambda: self._signal(signal.SIGKILL)),
            ("SIGTERM", lambda: self._signal(signal.SIGTERM)),
            ("SIGINT", lambda: self._signal(signal.SIGINT)),
            ("second process", self._second),
            ("between write and rename", self._between),
            ("full disk", self._full),
            ("read-only folder", self._read_only),
            ("cut checkpoint", self._cut),
        ]

    def stop(self, number: int) -> None:
        """Stop a run in one of the ways."""
        name, way = self._ways[number % len(self._ways)]
        for attempt in range(TRIES):
            self._latest = 0.5**attempt
            met = way()
            self._compare_if_ended()
            if met:
                self._tally.kills[name] += 1
                return
        self._tally.lost.append(f"{self._subject.name}: {name} met no run in {TRIES} tries")

    def end(self) -> None:
        """Let the run go on to its end."""
        process = self._start()
        _, errors = process.communicate()
        if process.returncode:
            self._tally.lost.append(f"{self._subject.name}: {errors.decode()[-400:]}")
        else:
            self._compare_if_ended()

    def _compare_if_ended(self) -> None:
        path = self._out / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {"left": ["all"]}
        if results["left"] or results["failed"]:
            return
        if self._process.returncode:
            # Of what is at its top, some is written after the results.
            self._start().communicate()
        ours, theirs = outcome(self._out), outcome(self._alone)
        different = [name for name in theirs if ours.get(name) != theirs[name]]
        self._tally.different += [f"{self._subject.name}: {name}" for name in different]
        self._tally.compared += 1
        shutil.rmtree(self._out)

    def _start(self, **options: Any) -> subprocess.Popen[bytes]:
        self._tally.resumes += (self._out / "config.json").exists()
        self._last = _last_checkpoint(self._out)
        self._process = self._subject.run(self._out, GOING_ON, **options)
        return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a moment of the run's work; return whether the process still lives."""
        _wait_for_checkpoint(process, self._out, self._last)
        return self._lives_after(process, self._latest * self._pace.working)

    def _lives_after(self, process: subprocess.Popen[bytes], most: float) -> bool:
        try:
            process.wait(timeout=self._numbers.uniform(0, most))
        except subprocess.TimeoutExpired:
            return True
        process.communicate()
        return False

    def _signal(self, number: int) -> bool:
        process = self._start()
        if self._numbers.random() < BEGINNING:
            lives = self._lives_after(process, self._pace.beginning)
        else:
            lives = self._wait(process)
        if not lives:
            return False
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if number != signal.SIGKILL:
            self._check_manners(process.returncode, errors, number)
        return process.returncode != 0

    def _check_manners(self, code: int, errors: bytes, number: int) -> None:
        """Check that a process that was asked to stop did, and said how to go on."""
        if b"KeyboardInterrupt" in errors:
            # Python's own answer, before any of the command was there.
            return
        if code not in (0, STOPPED, -number):
            self._tally.lost.append(f"{self._subject.name}: exit {code}")
        if code == STOPPED and not any(sentence in errors for sentence in SAID):
            self._tally.lost.append(f"{self._subject.name}: no word of how to go on")

    def _between(self) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "sitecustomize.py").write_text(BETWEEN)
            renames = str(self._numbers.randint(1, max(2, int(30 * self._latest))))
            paths = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**os.environ, "PYTHONPATH": paths, "SOAK_RENAMES": renames}
            process = self._start(env=environment)
            process.communicate()
        return process.returncode == -signal.SIGKILL

    def _full(self) -> bool:
        """Let no file grow beyond a few bytes, as on a disk that is full."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        process = self._start(preexec_fn=limit)
        process.communicate()
        return process.returncode != 0

    def _read_only(self) -> bool:
        """Let a file stand where the folder of jobs is to be."""
        jobs, aside = self._out / "jobs", self._out / "aside"
        if not jobs.exists():
            return self._signal(signal.SIGKILL) and jobs.exists() and self._read_only()
        jobs.rename(aside)
        jobs.write_text("in the way")
        process = self._start()
        process.communicate()
        jobs.unlink()
        aside.rename(jobs)
        if process.returncode == 0:
            self._tally.lost.append(f"{self._subject.name}: ran where nothing could be written")
        return True

    def _cut(self) -> bool:
        process = self._start()
        if not self._wait(process):
            return False
        process.kill()
        process.communicate()
        found = self._out.glob("jobs/*/checkpoint-*")
        checkpoints = sorted(found, key=lambda path: path.stat().st_mtime)
        if not checkpoints:
            return False
        content = checkpoints[-1].read_bytes()
        checkpoints[-1].write_bytes(content[: self._numbers.randrange(len(content))])
        return True

    def _second(self) -> bool:
        """Start a second process while the first one pauses, which then goes on for a moment."""
        first = self._start()
        if not self._wait(first):
            return False
        first.send_signal(signal.SIGSTOP)
        second = self._subject.run(self._out, GOING_ON)
        second.communicate()
        first.send_signal(signal.SIGCONT)
        if second.returncode == REFUSED:
            self._tally.refusals += 1
        else:
            self._tally.lost.append(f"{self._subject.name}: a second process ran in its folder")
        self._lives_after(first, 0.1 * self._pace.working)
        first.kill()
        first.communicate()
        return True


def soak(kills: int, seed: int, folder: Path, say: Callable[[str], None]) -> Tally:
    """Torture commands in turns, all if there are kills enough; return what came of it."""
    numbers, tally = random.Random(seed), Tally()
    made = folder / "made"
    # Kernels are compiled here, so that a run which is left alone takes as long as one that is not.
    words = ("race", "--methods", "gem-miner,imp", "--seeds", "1", *TINY)
    Subject("race", (*words, "--set", "accelerate=always")).run(made).communicate()
    (ticket,) = made.glob("gem-miner*.ticket.safetensors")
    chosen = subjects(ticket)[: max(1, kills // LEAST)]
    each = [kills // len(chosen) + (i < kills % len(chosen)) for i in range(len(chosen))]
    first = 0
    for subject, count in zip(chosen, each, strict=True):
        if not count:
            continue
        alone = folder / f"alone {first}"
        torture = Torture(subject, alone, left_alone(subject, alone), numbers, tally)
        for number in range(first, first + count):
            torture.stop(number)
        torture.end()
        first += count
        say(f"{subject.name}: {count} kills")
        shutil.rmtree(alone)
    return tally


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often a run is stopped.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Stop runs, go on with them, compare; exit code 1 where one was lost or came out otherwise."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(kills, seed, Path(folder), console.print)
    for name, count in tally.kills.items():
        console.print(f"{count:4} times: {name}")
    console.print(
        f"{tally.kills.total()} kills, {tally.resumes} resumes, {tally.refusals} refusals, "
        f"{tally.compared} compared, {len(tally.lost)} lost, {len(tally.different)} different"
    )
    for what in (*tally.lost, *tally.different):
        console.print(what, markup=False)
    raise typer.Exit(1 if tally.lost or tally.different else 0)


if __name__ == "__main__":
    typer.run(main)
