"""The jobs of a run as tasks of a Ray cluster.

A task is a job's folder, which all nodes have to see. Ray retries a task whose worker died, and the
job goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.job_folder import JobFolder, Result
from gemkern.experiments.race import OnEpoch, OnResult
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.running import laboratory_of, run_job
from gemkern.experiments.settings import Settings
from gemkern.experiments.stopping import Stop, Stopped

# Seconds between looks at what the tasks have written.
LOOK = 0.5


def run_on_ray(
    folder: RunFolder,
    *,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    retries: int = -1,
    on_epoch: OnEpoch = lambda record: None,
    on_result: OnResult = lambda job, result: None,
    stop: Stop | None = None,
) -> None:
    """Run the jobs that are left of a run as Ray tasks, each when the ticket it needs is there.

    Args:
        address: of the cluster; None for one on this machine alone, "auto" for the one around it.
        cpus, gpus: what a job takes of a node; fractions share it.
        retries: how often a job whose worker died is run again; -1 as often as it takes.
        on_epoch, on_result, stop: as in `run_in_turn`.

    Raises:
        Busy: another process runs these jobs.
        GemkernError: Ray is not installed or there is no cluster at `address`.
        Stopped: the run was told to.
    """
    stop = stop or Stop()
    with folder.locked(), _cluster(address) as ray:
        folder.gather()
        task = ray.remote(_task).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
        left = [job for job in folder.jobs() if folder.state_of(job) != "finished"]
        shown = {job.name: len(folder.folder_of(job).epochs()) for job in folder.jobs()}
        running: dict[Any, Job] = {}
        while left or running:
            left = [job for job in left if not _begun(folder, job, task, running, on_result)]
            done, _ = ray.wait(list(running), timeout=LOOK) if running else ([], [])
            for job in running.values():
                _show(folder, job, shown, on_epoch)
            for one in done:
                job = running.pop(one)
                on_result(job, _ended(folder, job, ray, one))
                folder.gather()
            if stop.requested:
                folder.gather()
                raise Stopped


def _begun(
    folder: RunFolder, job: Job, task: Any, running: dict[Any, Job], on_result: OnResult
) -> bool:
    """Begin a job if what it needs is there; return whether it is to be begun no more."""
    own = folder.folder_of(job)
    if job.needs is not None and not own.given():
        needed = next(
            one for one in folder.jobs() if (one.method, one.seeds) == (job.needs, job.seeds)
        )
        state = folder.state_of(needed)
        if state == "failed" and needed not in running.values():
            own.fail(GemkernError(f"{job.method} needs the ticket of {job.needs}, which failed"))
            folder.gather()
            on_result(job, None)
            return True
        if state != "finished":
            return False
        own.give(folder.given(job))
    running[task.remote(str(own.path.resolve()))] = job
    return True


def _task(path: str) -> None:
    """Run the job in a folder, in a process of a node."""
    own = JobFolder(Path(path))
    try:
        run_job(own, laboratory_of(Settings.of(own.job().settings)))
    except Exception as error:
        own.try_to_fail(error)


def _ended(folder: RunFolder, job: Job, ray: Any, task: Any) -> Result | None:
    own = folder.folder_of(job)
    try:
        ray.get(task)
    except Exception as error:
        # The worker died more often than it was to be tried again.
        own.try_to_fail(error)
    return own.result() if own.state() == "finished" else None


def _show(folder: RunFolder, job: Job, shown: dict[str, int], on_epoch: OnEpoch) -> None:
    epochs = folder.folder_of(job).epochs()
    for record in epochs[shown[job.name] :]:
        on_epoch(record)
    shown[job.name] = max(shown[job.name], len(epochs))


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise GemkernError(
            "ray is not installed: pip install gemkern[ray], or leave --engine out"
        ) from error
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise GemkernError(
                f"there is no Ray cluster at {address!r} ({error}): start one with ray start --head"
            ) from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()
