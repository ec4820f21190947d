"""What a run leaves behind: its configuration, a folder for each job, and what they came to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.job_folder import (
    EPOCHS,
    JobFolder,
    State,
    append_epoch,
    damaged,
    read_epochs,
    read_json,
    write_epochs,
)
from gemkern.experiments.records import EpochRecord, Failure, Run, Saving, as_record
from gemkern.experiments.summary import summarise
from gemkern.files import check_place, write_atomically, write_json
from gemkern.tickets import METHODS, Ticket

CONFIG, RESULTS, JOBS = "config.json", "results.json", "jobs"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: `config.json`, `jobs/`, `epochs.jsonl` and `results.json`.

    What is at its top is gathered from the jobs, which can be run anywhere and moved. Files are
    valid JSON: a number that is not finite (the loss of a run that diverged) is written as null,
    which is read as NaN.
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        command: str,
        jobs: Sequence[Job] = (),
        about: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make the folder and write what was asked for.

        Args:
            config: what was asked for, by name.
            command: by which.
            about: with what versions, on what devices.

        Raises:
            GemkernError: the folder is that of a run already, or cannot be written.
        """
        folder = cls.check_new(path)
        content = {
            "command": command,
            "config": config,
            **(about or {}),
            "jobs": [job.as_dict() for job in jobs],
        }
        write_json(folder.path / CONFIG, content)
        return folder

    @classmethod
    def check_new(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Check that no run was begun at `path`.

        Raises:
            GemkernError: one was, or no folder could be there.
        """
        folder = cls(Path(path))
        check_place(folder.path / CONFIG)
        for name in (RESULTS, EPOCHS, JOBS):
            if (folder.path / name).exists():
                raise GemkernError(
                    f"{folder.path} already holds the {name} of a run{folder._progress()}; go on "
                    "with --resume, or choose another --out"
                )
        return folder

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Return the folder that `create` made at `path`.

        Raises:
            GemkernError: there is none.
        """
        folder = cls(Path(path))
        check_place(folder.path / CONFIG)
        if not (folder.path / CONFIG).is_file():
            raise GemkernError(
                f"{folder.path} holds no {CONFIG}; name a folder that a run was told with --out"
            )
        return folder

    def config(self) -> dict[str, Any]:
        """Return what `create` wrote.

        Raises:
            GemkernError: it is damaged.
        """
        return read_json(self.path / CONFIG)

    def command(self) -> str:
        """Return the command by which the run was begun; an empty text where none is known.

        Raises:
            GemkernError: it is damaged.
        """
        found = self.config().get("command", "")
        if not isinstance(found, str):
            raise self._damaged("its command is no text")
        return found

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, by name.

        Raises:
            GemkernError: it is damaged.
        """
        found = self.config().get("config")
        if not isinstance(found, dict):
            raise self._damaged("it does not hold what was asked for")
        return found

    def jobs(self) -> list[Job]:
        """Return the jobs of the run, in the order in which they can be run.

        Raises:
            GemkernError: they are damaged, or the run is older than jobs are.
        """
        config = self.config()
        if "jobs" not in config:
            raise GemkernError(
                f"{self.path} is a run of an older version, which has no jobs: choose another --out"
            )
        if not isinstance(config["jobs"], list):
            raise self._damaged("its jobs are no list")
        return [Job.of(job) for job in config["jobs"]]

    def folder_of(self, job: Job) -> JobFolder:
        """Return the folder of a job, made if need be."""
        return JobFolder.create(self.look_at(job).path, job)

    def look_at(self, job: Job) -> JobFolder:
        """Return the folder of a job, which may not be there yet; nothing is made."""
        return JobFolder(self.path / JOBS / job.name)

    def state_of(self, job: Job) -> State:
        """Return how far a job is; nothing is made."""
        own = self.look_at(job)
        return own.state() if own.path.exists() else "waiting"

    def left(self) -> list[Job]:
        """Return the jobs that have not finished."""
        return [job for job in self.jobs() if self.state_of(job) != "finished"]

    def given(self, job: Job) -> list[Ticket]:
        """Return the tickets that a job needs of another.

        Raises:
            GemkernError: that job failed, has not finished or lost its tickets.
        """
        if job.needs is None:
            return []
        found = [one for one in self.jobs() if (one.method, one.seeds) == (job.needs, job.seeds)]
        if len(found) != 1:
            raise self._damaged(f"{len(found)} of its jobs find the ticket that {job.name} needs")
        (needed,) = found
        if (state := self.state_of(needed)) != "finished":
            raise GemkernError(
                f"{job.method} needs the ticket of {needed.method}, whose job is {state}: "
                f"gemkern job {self.look_at(needed).path}"
            )
        tickets = self.folder_of(needed).tickets()
        if missing := [seed for seed in job.seeds if seed not in tickets]:
            raise GemkernError(
                f"{job.method} needs the ticket of {needed.method}, and that of seed {missing[0]} "
                f"is not in {self.look_at(needed).path}: restore it, or run that job again"
            )
        return [Ticket.load(tickets[seed]) for seed in job.seeds]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process run these jobs.

        Raises:
            GemkernError: another does, or the folder cannot be written.
        """
        with JobFolder(self.path).locked():
            yield

    def append(self, epoch: EpochRecord) -> None:
        """Add one line to `epochs.jsonl`, on its way to the disk when this returns.

        Raises:
            GemkernError: the file cannot be written.
        """
        append_epoch(self.path / EPOCHS, epoch)

    def gather(self) -> None:
        """Write `results.json`, `epochs.jsonl` and the tickets as the jobs have them by now.

        Raises:
            GemkernError: a file cannot be written.
        """
        runs, savings, failures, epochs, left = [], [], [], [], []
        for job in self.jobs():
            state, folder = self.state_of(job), self.look_at(job)
            if state != "waiting":
                epochs += folder.epochs()
                self._copy_tickets(folder)
            if state == "finished":
                result = folder.result()
                runs += result.runs
                savings += result.savings
            elif state == "failed":
                failures.append(Failure(job.method, job.seeds, folder.failure()))
            else:
                left.append(job.name)
        methods = self.asked().get("methods", list(METHODS))
        if not isinstance(methods, list):
            raise self._damaged("its methods are no list")
        runs.sort(key=lambda run: (_place(methods, run.method), run.seed))
        write_epochs(self.path / EPOCHS, epochs)
        self.write(runs, savings, failures, left)

    def write(
        self,
        runs: Sequence[Run],
        savings: Sequence[Saving] = (),
        failures: Sequence[Failure] = (),
        left: Sequence[str] = (),
    ) -> None:
        """Write `results.json`: every run, what they come to, savings, and what is missing.

        Raises:
            GemkernError: the file cannot be written.
        """
        content = {
            "summary": summarise(runs),
            "runs": [asdict(run) for run in runs],
            "savings": [asdict(saving) for saving in savings],
            "failed": [asdict(failure) for failure in failures],
            "left": left,
        }
        write_json(self.path / RESULTS, content)

    def runs(self) -> list[Run]:
        """Return the runs that have finished.

        Raises:
            GemkernError: `results.json` is missing (nothing has finished) or damaged.
        """
        return self._results("runs", Run)

    def savings(self) -> list[Saving]:
        """Return what acceleration saved in the runs that have finished.

        Raises:
            GemkernError: `results.json` is missing or damaged.
        """
        return self._results("savings", Saving)

    def failures(self) -> list[Failure]:
        """Return the jobs that failed.

        Raises:
            GemkernError: `results.json` is missing or damaged.
        """
        return self._results("failed", Failure, needed=False)

    def records(self) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
        """Return how runs were accelerated (`gemkern.training.Forms`), by method, seed and phase.

        Raises:
            GemkernError: `results.json` is missing (the run has not finished) or damaged.
        """
        return {(one.method, one.seed, one.phase): one.record for one in self.savings()}

    def tickets(self) -> dict[tuple[str, int], Path]:
        """Return the files of the tickets that were found, by method and seed."""
        return {
            (job.method, seed): self.path / path.name
            for job in self.jobs()
            if self.state_of(job) != "waiting"
            for seed, path in self.look_at(job).tickets().items()
        }

    def epochs(self) -> list[EpochRecord]:
        """Return the epochs appended so far, in their order.

        Raises:
            GemkernError: `epochs.jsonl` is missing (no epoch has finished) or damaged.
        """
        return read_epochs(self.path / EPOCHS)

    def _results(self, name: str, kind: type[Any], needed: bool = True) -> list[Any]:
        path = self.path / RESULTS
        found = read_json(path)
        if not needed and name not in found:
            return []
        try:
            return [as_record(kind, entry) for entry in found[name]]
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(str(path), error) from error

    def _damaged(self, what: str) -> GemkernError:
        return damaged(str(self.path / CONFIG), what)

    def _copy_tickets(self, folder: JobFolder) -> None:
        for path in folder.tickets().values():
            copy = self.path / path.name
            if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
                write_atomically(copy, partial(shutil.copyfile, path))

    def _progress(self) -> str:
        """Return how far the run is, for a sentence."""
        try:
            states = [self.state_of(job) for job in self.jobs()]
        except GemkernError:
            return ""
        if not states:
            return ""
        return f", of which {states.count('finished')} of {len(states)} jobs are finished"


def _place(methods: Sequence[str], method: str) -> int:
    return methods.index(method) if method in methods else len(methods)
