"""What is tortured: commands, what they come to, and how long they take."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    wait_for_checkpoint(process, folder, 0)
    working = time.monotonic()
    process.communicate()
    return Pace(working - started, time.monotonic() - working)


def last_checkpoint(folder: Path) -> int:
    """Return when the newest checkpoint of a run was written, in nanoseconds; 0 where none was."""
    times = [0]
    for path in folder.glob("jobs/*/checkpoint-*"):
        # One that is older than two others goes at any moment.
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def wait_for_checkpoint(process: subprocess.Popen[bytes], folder: Path, last: int) -> None:
    while process.poll() is None and last_checkpoint(folder) <= last:
        time.sleep(0.01)
