"""Kill runs at random moments, go on with them, and compare what they end with.

python -m benchmarks.soak                     50 kills, half an hour on two cores
python -m benchmarks.soak --kills 10          a short one

Each of race, mine, imp and finetune runs once, dense and accelerated, left alone. Then it runs
again and is stopped at random moments, by SIGKILL, SIGTERM or SIGINT, also between the writing of a
checkpoint and its renaming, on a full disk, in a folder that cannot be written, with the newest
checkpoint cut off, and with a second process on the same folder, which has to be refused. After
each the same command goes on with --resume. In the end tickets, epochs and results have to be those
of the run that was left alone, to the bit, apart from times.
"""

from __future__ import annotations

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
# A process dies that was killed by a signal, or says that it was stopped.
STOPPED = 130
REFUSED = 2


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    refusals: int = 0
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
        "mine": ("mine", *TINY),
        "imp": ("imp", *TINY),
        "finetune": ("finetune", str(ticket), *_without_density(TINY)),
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


class Torture:
    """Stops one run in all the ways there are, until it has ended."""

    def __init__(
        self, subject: Subject, alone: float, numbers: random.Random, tally: Tally
    ) -> None:
        self._subject, self._alone, self._numbers, self._tally = subject, alone, numbers, tally
        self._ways: list[tuple[str, Callable[[Path], None]]] = [
            ("SIGKILL", lambda out: self._signal(out, signal.SIGKILL)),
            ("SIGTERM", lambda out: self._signal(out, signal.SIGTERM)),
            ("SIGINT", lambda out: self._signal(out, signal.SIGINT)),
            ("between write and rename", self._between),
            ("full disk", self._full),
            ("read-only folder", self._read_only),
            ("cut checkpoint", self._cut),
            ("second process", self._second),
        ]

    def stop(self, out: Path, number: int) -> None:
        """Stop the run in the folder in one of the ways."""
        name, way = self._ways[number % len(self._ways)]
        self._tally.kills[name] += 1
        way(out)

    def end(self, out: Path) -> int:
        """Let the run go on to its end; return its exit code."""
        self._tally.resumes += 1
        process = self._subject.run(out, GOING_ON)
        _, errors = process.communicate()
        if process.returncode:
            self._tally.lost.append(f"{self._subject.name}: {errors.decode()[-400:]}")
        return process.returncode

    def _moment(self) -> float:
        return self._numbers.uniform(0.3, 1.0) * self._alone

    def _signal(self, out: Path, number: int) -> None:
        self._tally.resumes += 1
        process = self._subject.run(out, GOING_ON)
        try:
            process.communicate(timeout=self._moment())
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
            polite = number != signal.SIGKILL
            said = b"gemkern: stopped; go on with: gemkern" in errors
            early = b"KeyboardInterrupt" in errors
            if polite and process.returncode not in (0, STOPPED, -number) and not early:
                self._tally.lost.append(f"{self._subject.name}: exit {process.returncode}")
            if polite and process.returncode == STOPPED and not said and not early:
                self._tally.lost.append(f"{self._subject.name}: no word of how to go on")

    def _between(self, out: Path) -> None:
        self._tally.resumes += 1
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "sitecustomize.py").write_text(BETWEEN)
            renames = str(self._numbers.randint(2, 30))
            paths = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**os.environ, "PYTHONPATH": paths, "SOAK_RENAMES": renames}
            self._subject.run(out, GOING_ON, env=environment).communicate()

    def _full(self, out: Path) -> None:
        """Let no file grow beyond a few bytes, as on a disk that is full."""
        self._tally.resumes += 1

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        self._subject.run(out, GOING_ON, preexec_fn=limit).communicate()

    def _read_only(self, out: Path) -> None:
        """Let a file stand where the folder of jobs is to be."""
        jobs, aside = out / "jobs", out / "aside"
        if not jobs.exists():
            return
        self._tally.resumes += 1
        jobs.rename(aside)
        jobs.write_text("in the way")
        process = self._subject.run(out, GOING_ON)
        process.communicate()
        jobs.unlink()
        aside.rename(jobs)
        if process.returncode == 0:
            self._tally.lost.append(f"{self._subject.name}: ran where nothing could be written")

    def _cut(self, out: Path) -> None:
        self._signal(out, signal.SIGKILL)
        checkpoints = sorted(out.glob("jobs/*/checkpoint-*"), key=lambda path: path.stat().st_mtime)
        if checkpoints:
            content = checkpoints[-1].read_bytes()
            checkpoints[-1].write_bytes(content[: self._numbers.randrange(len(content))])

    def _second(self, out: Path) -> None:
        self._tally.resumes += 1
        first = self._subject.run(out, GOING_ON)
        time.sleep(self._moment())
        second = self._subject.run(out, GOING_ON)
        second.communicate()
        if first.poll() is None and second.returncode != REFUSED:
            self._tally.lost.append(f"{self._subject.name}: a second process ran in its folder")
        self._tally.refusals += second.returncode == REFUSED
        first.kill()
        first.communicate()


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
        alone, tortured = (folder / f"{what} {first}" for what in ("alone", "tortured"))
        started = time.monotonic()
        subject.run(alone).communicate()
        torture = Torture(subject, time.monotonic() - started, numbers, tally)
        for number in range(first, first + count):
            torture.stop(tortured, number)
        first += count
        if torture.end(tortured) == 0:
            ours, theirs = outcome(tortured), outcome(alone)
            different = [name for name in theirs if ours.get(name) != theirs[name]]
            tally.different += [f"{subject.name}: {name}" for name in different]
        say(f"{subject.name}: {count} kills")
        shutil.rmtree(alone)
        shutil.rmtree(tortured, ignore_errors=True)
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
        f"{len(tally.lost)} lost, {len(tally.different)} different"
    )
    for what in (*tally.lost, *tally.different):
        console.print(what, markup=False)
    raise typer.Exit(1 if tally.lost or tally.different else 0)


if __name__ == "__main__":
    typer.run(main)
