"""The folder of a job: what it is, how far it came, and what it came to."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from gemkern.errors import GemkernError
from gemkern.experiments.checkpoints import Checkpoints
from gemkern.experiments.job import Job, in_a_name
from gemkern.experiments.records import EpochRecord, Run, Saving, as_record
from gemkern.files import check_regular, plain, write_atomically, write_json
from gemkern.tickets import Ticket

JOB, EPOCHS, RESULT, FAILURE, LOCK = (
    "job.json",
    "epochs.jsonl",
    "result.json",
    "failure.json",
    ".lock",
)


class Busy(GemkernError):
    """Another process works in a folder."""


State = Literal["waiting", "running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class Result:
    """What a finished job came to."""

    runs: list[Run]
    savings: list[Saving]


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job.

    It holds `job.json`, the tickets that the job was given and those that it found, `epochs.jsonl`,
    checkpoints while it runs, and in the end `result.json`, or `failure.json` until it is tried
    again. Files are whole or absent, but for the last line of `epochs.jsonl`.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, job: Job) -> JobFolder:
        """Make the folder of `job`, if need be.

        Raises:
            GemkernError: it cannot be written, or is that of another job.
        """
        folder = cls(path)
        if (path / JOB).exists() and folder.job().hash != job.hash:
            raise GemkernError(f"{path} is the folder of another job: choose another --out")
        if not (path / JOB).exists():
            write_json(path / JOB, job.as_dict())
        return folder

    def job(self) -> Job:
        """Return the job.

        Raises:
            GemkernError: there is none, or it is damaged.
        """
        return Job.of(read_json(self.path / JOB))

    def give(self, tickets: Sequence[Ticket]) -> None:
        """Keep the tickets that the job was given, a seed each."""
        for seed, ticket in zip(self.job().seeds, tickets, strict=bool(tickets)):
            if not (path := self.path / f"given-seed{seed}.ticket.safetensors").exists():
                ticket.save(path)

    def given(self) -> list[Ticket]:
        """Return the tickets that the job was given."""
        found = [self.path / f"given-seed{seed}.ticket.safetensors" for seed in self.job().seeds]
        return [Ticket.load(path) for path in found if path.exists()]

    def tickets(self) -> dict[int, Path]:
        """Return the files of the tickets that were found, by seed."""
        job = self.job()
        named = {seed: self.path / ticket_name(job.method, seed) for seed in job.seeds}
        return {seed: path for seed, path in named.items() if path.exists()}

    def checkpoints(self) -> Checkpoints:
        """Return the job's checkpoints."""
        return Checkpoints(self.path, self.job().hash)

    @contextmanager
    def locked(self, patience: float = 2.0) -> Iterator[None]:
        """Let no other process work here.

        Args:
            patience: seconds to wait for one that only looks whether anybody works.

        Raises:
            Busy: another does.
            GemkernError: the folder cannot be written.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise Busy(
                f"another process works in {self.path}: wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise GemkernError(
                f"could not write {self.path}: {error.strerror or error}; "
                "choose a folder that can be written"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def state(self) -> State:
        """Return how far the job is, as its files say."""
        if (self.path / RESULT).exists():
            return "finished"
        if self._is_locked():
            return "running"
        if (self.path / FAILURE).exists():
            return "failed"
        begun = (self.path / EPOCHS).exists() or any(self.path.glob("checkpoint-*"))
        return "stopped" if begun else "waiting"

    def _is_locked(self) -> bool:
        if not (self.path / LOCK).exists():
            return False
        try:
            with self.locked(patience=0.0):
                return False
        except Busy:
            return True
        except GemkernError:
            # Nobody can work where nobody can write.
            return False

    def append(self, epoch: EpochRecord) -> None:
        """Add one line to `epochs.jsonl`, on its way to the disk when this returns.

        Raises:
            GemkernError: the file cannot be written.
        """
        append_epoch(self.path / EPOCHS, epoch)

    def rewrite(self, epochs: Sequence[EpochRecord]) -> None:
        """Let `epochs.jsonl` hold `epochs` and nothing else."""
        write_epochs(self.path / EPOCHS, epochs)

    def epochs(self) -> list[EpochRecord]:
        """Return the epochs so far; a last line that was cut off does not count."""
        if not (self.path / EPOCHS).exists():
            return []
        return read_epochs(self.path / EPOCHS)

    def finish(self, runs: Sequence[Run], savings: Sequence[Saving]) -> None:
        """Write what the job came to; checkpoints and failures go."""
        content = {
            "runs": [asdict(run) for run in runs],
            "savings": [asdict(saving) for saving in savings],
        }
        write_json(self.path / RESULT, content)
        (self.path / FAILURE).unlink(missing_ok=True)
        self.checkpoints().clear()

    def fail(self, error: Exception) -> None:
        """Write why the job failed."""
        what = str(error) or type(error).__name__
        content = {
            "why": what if isinstance(error, GemkernError) else f"{type(error).__name__}: {error}",
            "where": "".join(traceback.format_exception(error)),
        }
        write_json(self.path / FAILURE, content)

    def try_to_fail(self, error: Exception) -> None:
        """Write why the job failed, or raise that where it cannot be written."""
        try:
            self.fail(error)
        except GemkernError:
            raise error from None

    def failure(self) -> str:
        """Return why the job failed.

        Raises:
            GemkernError: it did not, or the file is damaged.
        """
        found = read_json(self.path / FAILURE).get("why")
        if not isinstance(found, str):
            raise damaged(str(self.path / FAILURE), "it does not say why")
        return found

    def result(self) -> Result:
        """Return what the job came to.

        Raises:
            GemkernError: it has not finished, or the file is damaged.
        """
        found = read_json(self.path / RESULT)
        try:
            return Result(
                [as_record(Run, entry) for entry in found["runs"]],
                [as_record(Saving, entry) for entry in found["savings"]],
            )
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(str(self.path / RESULT), error) from error


def ticket_name(method: str, seed: int) -> str:
    """Return the name of a ticket's file."""
    return f"{in_a_name(method)}-seed{seed}.ticket.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a file holds.

    Raises:
        GemkernError: it is missing or damaged.
    """
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict):
            raise TypeError(f"it holds no object but a {type(found).__name__}")
    except GemkernError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged(str(path), error) from error
    return found


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        GemkernError: it is missing or damaged.
    """
    try:
        check_regular(path)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise GemkernError(
            f"could not read {path}: {error.strerror or error}; name the folder of a finished run"
        ) from error
    except UnicodeDecodeError as error:
        raise damaged(str(path), error) from error


def damaged(where: str, error: Exception | str) -> GemkernError:
    """Return the error for a file that is not what was written."""
    return GemkernError(f"{where} is damaged ({error}); restore it or run again")


def append_epoch(path: Path, epoch: EpochRecord) -> None:
    """Add one line to a file of epochs.

    Raises:
        GemkernError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(epoch))
    except OSError as error:
        raise GemkernError(
            f"could not write {path}: {error.strerror or error}; "
            "free some space or choose another --out"
        ) from error


def write_epochs(path: Path, epochs: Sequence[EpochRecord]) -> None:
    """Write a file of epochs, whole or not at all."""
    text = "".join(map(_line, epochs))
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_epochs(path: Path) -> list[EpochRecord]:
    """Return the epochs of a file; a last line without its end was being written.

    Raises:
        GemkernError: the file is missing or damaged.
    """
    lines = read_text(path).split("\n")
    whole = lines if _is_record(lines[-1]) else lines[:-1]
    epochs = []
    for number, line in enumerate(whole, start=1):
        try:
            epochs.append(as_record(EpochRecord, json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(f"line {number} of {path}", error) from error
    return epochs


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _line(epoch: EpochRecord) -> str:
    return json.dumps(plain(asdict(epoch)), allow_nan=False) + "\n"
