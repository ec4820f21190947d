"""The ways in which a run is stopped, and what has to come of it."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.subjects import Pace, Subject, last_checkpoint, outcome, wait_for_checkpoint

GOING_ON = "--resume"
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
        if not self._has_ended():
            return
        if self._process.returncode:
            # Of what is at its top, some is written after the results.
            self._start().communicate()
        ours, theirs = outcome(self._out), outcome(self._alone)
        different = [name for name in theirs if ours.get(name) != theirs[name]]
        self._tally.different += [f"{self._subject.name}: {name}" for name in different]
        self._tally.compared += 1
        shutil.rmtree(self._out)

    def _has_ended(self) -> bool:
        path = self._out / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {"left": ["all"]}
        return not (results["left"] or results["failed"])

    def _start(self, **options: Any) -> subprocess.Popen[bytes]:
        self._tally.resumes += (self._out / "config.json").exists()
        self._last = last_checkpoint(self._out)
        self._process = self._subject.run(self._out, GOING_ON, **options)
        return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a moment of the run's work; return whether the process still lives."""
        wait_for_checkpoint(process, self._out, self._last)
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
        if self._has_ended():
            # All that is left is to print: it holds the folder no longer, or for a moment more.
            first.kill()
            first.communicate()
            return False
        second = self._subject.run(self._out, GOING_ON)
        _, errors = second.communicate()
        first.send_signal(signal.SIGCONT)
        if second.returncode == REFUSED:
            self._tally.refusals += 1
        else:
            what = f"a second process ran, {second.returncode}: {errors.decode()[-200:]}"
            self._tally.lost.append(f"{self._subject.name}: {what}")
        self._lives_after(first, 0.1 * self._pace.working)
        first.kill()
        first.communicate()
        return True
