"""One job, run in its folder: from its last checkpoint to its result."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from gemkern.errors import GemkernError
from gemkern.experiments.checkpoints import Checkpoints
from gemkern.experiments.job_folder import JobFolder, Result, ticket_name
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.ranks import ALONE, Ranks
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.settings import Settings
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.experiments.work import Work
from gemkern.tickets import Ticket
from gemkern.training.forms import CHOICES


def run_job(
    folder: JobFolder,
    laboratory: Laboratory,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    stop: Stop | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Do what is left of the job in `folder`, and write down what it comes to.

    Args:
        laboratory: of the job's settings.
        on_epoch: hears of each epoch that is trained now.
        stop: looked at after each step; then a checkpoint is written and `Stopped` raised.
        ranks: those that train together; the first has the folder, the others hear from it.

    Raises:
        Busy: another process runs the job.
        GemkernError: the job fails.
        Stopped: the run was told to.
    """
    stop = stop or Stop()
    with folder.locked() if ranks.is_first else nullcontext():
        if ranks.from_first(lambda: folder.state() == "finished"):
            return ranks.from_first(folder.result)
        job = ranks.from_first(folder.job)
        facts = ranks.state_from_first(lambda: [vars(ticket) for ticket in folder.given()])
        given = [Ticket(**one) for one in facts]

        def note(record: EpochRecord) -> None:
            if ranks.is_first:
                folder.append(record)
                on_epoch(record)

        def found(seed: int, ticket: Ticket) -> None:
            if ranks.is_first:
                ticket.save(folder.path / ticket_name(job.method, seed), replace=True)

        work = begun(
            lambda: Work(job, laboratory, given, note, found, ranks.share, ranks.wrap),
            folder,
            ranks,
        )
        if ranks.is_first:
            # What was trained after the checkpoint is trained again.
            folder.rewrite(work.records())
        keeper = Keeper(work, folder, stop, ranks)
        with stop.between_steps():
            runs = work.run(keeper.is_due, keeper.keep)
        savings = [saving for course in work.courses for saving in course.savings]
        if ranks.is_first:
            folder.finish(runs, savings)
        return Result(runs, savings)


def laboratory_of(settings: Settings) -> Laboratory:
    """Return where jobs of these settings run, with the records that they may replay.

    Raises:
        GemkernError: as `Laboratory`, or the run to be replayed cannot be read.
    """
    chosen = settings.accelerate
    return Laboratory(settings, None if chosen in CHOICES else RunFolder.load(chosen).records())


def begun(make: Callable[[], Work], folder: JobFolder, ranks: Ranks) -> Work:
    """Return the work as its last checkpoint left it, or new where there is none.

    A warning names each checkpoint that is passed over.

    Raises:
        GemkernError: there are checkpoints, and all are of an older gemkern, or of a model whose
            source has changed; or layers of the last ran sparse, and ranks train together.
    """
    states = folder.checkpoints().states() if ranks.is_first else iter(())
    misfit: GemkernError | None = None
    while (state := ranks.state_from_first(lambda: next(states, None))) is not None:
        work = make()
        try:
            if ranks.count == 1 or not _runs_sparse(state):
                work.load_state_dict(state)
                return work
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # PyTorch says it in several lines.
            what = " ".join(f"{type(error).__name__}: {error}".split())
            misfit = GemkernError(
                f"a checkpoint in {folder.path} does not fit this gemkern or this model ({what}): "
                "go on with those that wrote it, or choose another --out"
            )
            warnings.warn(f"a checkpoint is passed over: {misfit}", stacklevel=3)
        else:
            raise GemkernError(
                "layers of this run are sparse by now, which DistributedDataParallel cannot "
                "follow: go on in one process"
            )
    if misfit is not None:
        raise misfit
    return make()


def _runs_sparse(state: dict[str, Any]) -> bool:
    """Return whether layers ran sparse in what was trained, which ranks cannot change together."""
    return any(method.get("forms", {}).get("compressed") for method in state["methods"])


class Keeper:
    """Writes checkpoints when they are due, and stops when that is asked for."""

    def __init__(self, work: Work, folder: JobFolder, stop: Stop, ranks: Ranks) -> None:
        self._work, self._stop, self._ranks = work, stop, ranks
        self._checkpoints = Checkpoints(folder.path, work.job.hash)
        self._seconds = 60 * float(work.job.settings["checkpoint_minutes"])
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a checkpoint is to be written before the next step."""
        here = self._stop.requested or time.monotonic() - self._last >= self._seconds
        return self._ranks.any(here)

    def keep(self) -> None:
        """Write a checkpoint.

        Raises:
            GemkernError: it cannot be written.
            Stopped: that was asked for.
        """
        if self._ranks.is_first:
            self._checkpoints.save(self._work.state_dict())
        self._work.pause()
        self._last = time.monotonic()
        if self._ranks.any(self._stop.requested):
            raise Stopped
