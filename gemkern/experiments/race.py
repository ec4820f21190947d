"""The race: every method on the same data, loop, recipe and number of weights.

A race is a set of jobs in a folder (`RunFolder`). An engine runs those that are left.
"""

from __future__ import annotations

from collections.abc import Callable

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.job_folder import Busy
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.ranks import ALONE, Ranks
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.running import run_job
from gemkern.experiments.stopping import Stop, Stopped

OnEpoch = Callable[[EpochRecord], None]


def run_in_turn(
    folder: RunFolder,
    laboratory: Laboratory,
    *,
    on_epoch: OnEpoch = lambda record: None,
    stop: Stop | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Run the jobs that are left of a run, one after the other, in this process.

    All tickets keep as many weights as Gem-Miner's schedule leaves and are finetuned by one recipe;
    "dense" is the whole network trained by it. A seed sets the data order and the initial weights,
    which are of the kind that the settings name for each method. What acceleration saved is
    measured beside the race: its seconds do not count. A job that fails is written down, and the
    others go on. What has finished is gathered after each job, and where the run is told to stop.

    Args:
        on_epoch: hears of each epoch that is trained now.
        ranks: those that train together; all but the first only `follow`.

    Raises:
        Busy: another process runs these jobs.
        GemkernError: the folder cannot be written.
        Stopped: the run was told to.
    """
    stop = stop or Stop()

    def note(record: EpochRecord) -> None:
        folder.append(record)
        on_epoch(record)

    with folder.locked():
        folder.gather()
        for job in ranks.from_first(folder.left):
            try:
                _run(folder, job, laboratory, note, stop, ranks)
            except Stopped:
                folder.gather()
                raise
            folder.gather()


def follow(folder: RunFolder, laboratory: Laboratory, stop: Stop, ranks: Ranks) -> None:
    """Take part in the jobs that the first rank runs.

    Raises:
        Stopped: the run was told to.
    """
    for job in ranks.from_first(folder.left):
        run_job(folder.look_at(job), laboratory, stop=stop, ranks=ranks)


def _run(
    folder: RunFolder,
    job: Job,
    laboratory: Laboratory,
    on_epoch: OnEpoch,
    stop: Stop,
    ranks: Ranks,
) -> None:
    """Run one job; write down if it fails."""
    own = folder.folder_of(job)
    try:
        own.give(folder.given(job))
        run_job(own, laboratory, on_epoch, stop, ranks)
    except Busy:
        raise
    except Exception as error:
        own.try_to_fail(error)


def check_resumed(folder: RunFolder, jobs: list[Job]) -> None:
    """Check that a run is made of `jobs`.

    Raises:
        GemkernError: naming a setting that differs.
    """
    ours, theirs = jobs, folder.jobs()
    if [job.hash for job in ours] == [job.hash for job in theirs]:
        return
    for mine, other in zip(ours, theirs, strict=False):
        for name in sorted({*mine.settings, *other.settings}):
            asked, there = mine.settings.get(name), other.settings.get(name)
            if (mine.method, mine.seeds) == (other.method, other.seeds) and asked != there:
                raise GemkernError(
                    f"{folder.path} is a run with {name}={there} where {name}={asked} is asked: "
                    "give --resume and --out alone, or choose another --out"
                )
    raise GemkernError(
        f"{folder.path} is a run of other methods or seeds than are asked: give --resume and --out "
        "alone, or choose another --out"
    )
