"""The jobs of a run as tasks of a Ray cluster.

A task is the path of a job's folder, which all nodes see: what comes of it lies there. Ray runs a
task again whose worker died, and the job goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gemkern import waiting
from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.job_folder import Busy, JobFolder, Result, State
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.race import OnEpoch
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.running import laboratory_of, run_job
from gemkern.experiments.settings import Settings
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.experiments.warm_up import warm_up
from gemkern.nn import keep_freed_memory

# Seconds between looks at what the tasks have written.
LOOK = 0.5
# Seconds in which a cancelled job ends its step and writes a checkpoint; then its worker is killed.
# A scheduler that sends SIGTERM kills after half a minute.
GRACE = 20.0
# Seconds after which a file server shows everywhere what was written, and forgets a dead node.
LEASE = 120.0
# How often a job is run again whose worker died: one that always kills it comes to an end.
RETRIES = 20
OnResult = Callable[[Job, Result | None], None]
# Makes a task of the folders of a job and to run in.
Submit = Callable[[str, str], Any]
# What the threads of a job are to have from this process, where it was said here.
THREADS = ("OMP_NUM_THREADS", *waiting.SAID)


def run_on_ray(
    folder: RunFolder,
    *,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    retries: int = RETRIES,
    on_epoch: OnEpoch = lambda record: None,
    on_result: OnResult = lambda job, result: None,
    stop: Stop | None = None,
) -> None:
    """Run the jobs that are left of a run as Ray tasks, each when the ticket it needs is there.

    Jobs run in this process's working folder, which all nodes see as they see the run's. They have
    as many threads as CPUs, unless OMP_NUM_THREADS says otherwise here. A job that fails is written
    down, and the others go on. What has finished is gathered after each job, and where the run is
    told to stop: then tasks are cancelled.

    Args:
        address: of the cluster; "auto" for the one on this machine; None for that in RAY_ADDRESS,
            else for a new one of this machine alone.
        cpus, gpus: what a job takes of a node; fractions share it.
        retries: how often a job whose worker died is run again; -1 as often as it takes.
        on_epoch, stop: as in `run_in_turn`.
        on_result: hears of each job that has ended, with None for one that failed.

    Raises:
        Busy: another process runs these jobs.
        GemkernError: Ray is not installed, there is no cluster at `address`, no node of it has what
            a job takes, or the folder cannot be written.
        Stopped: the run was told to.
    """
    stop = stop or Stop()
    # Ray hears signals itself from when it starts: they are listened for anew.
    with folder.locked(), _cluster(address) as ray, stop.listening():
        tasks = _Tasks(folder, ray, _submitter(ray, cpus, gpus, retries), on_epoch, on_result)
        folder.gather()
        with stop.between_steps():
            try:
                while tasks.left or tasks.running:
                    tasks.begin()
                    tasks.look()
                    if stop.requested:
                        raise Stopped
            finally:
                tasks.cancel()
                folder.gather()


class _Tasks:
    """The jobs that are left of a run, and those that are tasks by now.

    Args:
        submit: makes a task of a job's folder and the folder to run in.
        on_epoch, on_result: as in `run_on_ray`.
    """

    def __init__(
        self, folder: RunFolder, ray: Any, submit: Submit, on_epoch: OnEpoch, on_result: OnResult
    ) -> None:
        self._folder, self._ray, self._submit = folder, ray, submit
        self._on_epoch, self._on_result = on_epoch, on_result
        self.left = folder.left()
        self.running: dict[Any, Job] = {}
        self._told = {job.name: len(folder.folder_of(job).epochs()) for job in self.left}

    def begin(self) -> None:
        """Submit the jobs that wait for no other's ticket."""
        to_end = {(job.method, job.seeds) for job in (*self.left, *self.running.values())}
        for job in [job for job in self.left if (job.needs, job.seeds) not in to_end]:
            self.left.remove(job)
            own = self._folder.folder_of(job)
            try:
                own.give(self._folder.given(job))
            except GemkernError as error:
                own.try_to_fail(error)
                self._end(job, None)
            else:
                self.running[self._submit(str(own.path.resolve()), os.getcwd())] = job

    def look(self) -> None:
        """Wait a moment; tell of epochs, and of jobs that have ended."""
        if not self.running:
            return
        done, _ = self._ray.wait(list(self.running), timeout=LOOK)
        for job in self.running.values():
            self._tell(job)
        for task in done:
            job = self.running.pop(task)
            own = self._folder.folder_of(job)
            state = _state_after(own, self._ray, task)
            if state in ("finished", "failed"):
                self._end(job, own.result() if state == "finished" else None)
            else:
                # Its node was told to stop, and this run was not.
                self.left.append(job)

    def cancel(self) -> None:
        """Let jobs write a checkpoint and end, and kill the workers of those that do not."""
        if not self.running:
            return
        tasks = list(self.running)
        for task in tasks:
            self._ray.cancel(task)
        _, late = self._ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        for task in late:
            self._ray.cancel(task, force=True)

    def _tell(self, job: Job) -> None:
        """Tell of new epochs; of those that are trained again after a death it was told."""
        epochs = self._folder.folder_of(job).epochs()
        for record in epochs[self._told[job.name] :]:
            self._on_epoch(record)
        self._told[job.name] = max(self._told[job.name], len(epochs))

    def _end(self, job: Job, result: Result | None) -> None:
        self._folder.gather()
        self._on_result(job, result)


def ray_package() -> Any:
    """Return Ray, imported.

    Raises:
        GemkernError: it is not installed.
    """
    # What is measured here is nobody else's business; who wants to tell may say so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise GemkernError(
            f"Ray cannot be imported ({error}): pip install gemkern[ray], or leave --engine out"
        ) from error
    return ray


def check_address(address: str | None) -> str | None:
    """Return where a cluster is: `address`, or what RAY_ADDRESS says; None for a new one here.

    Raises:
        GemkernError: nobody listens there.
    """
    where = address or os.environ.get("RAY_ADDRESS")
    if where not in (None, "auto", "local"):
        host, _, port = where.rpartition(":")
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise _unjoined(where, error) from error
    return where


def _unjoined(where: str | None, error: Exception) -> GemkernError:
    return GemkernError(
        f"the Ray cluster at {where or 'this machine'} cannot be joined ({error}): start it with "
        "ray start --head, or leave --address out"
    )


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Be connected to a cluster; one that is begun here ends with the body."""
    ray = ray_package()
    if ray.is_initialized():
        yield ray
        return
    where = check_address(address)
    # Tasks pass no objects: the smallest store is large enough.
    new = {} if where else {"object_store_memory": 80 * 2**20}
    try:
        ray.init(
            where or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            **new,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unjoined(where, error) from error
    except SystemExit:
        # Ray's own answer to SIGTERM while it starts.
        raise Stopped from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _submitter(ray: Any, cpus: float, gpus: float, retries: int) -> Submit:
    """Return what begins a task.

    Raises:
        GemkernError: no node has what it takes.
    """
    wanted = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= wanted[kind] for kind in wanted) for node in nodes):
        raise GemkernError(
            f"a job is to have {cpus:g} CPUs and {gpus:g} GPUs, which no node of the cluster has: "
            "give less with --cpus-per-job and --gpus-per-job, or start such a node first"
        )
    said = {name: os.environ[name] for name in THREADS if name in os.environ}

    def task(path: str, here: str) -> State:
        # Goes to the worker as it stands here: what is said is said before PyTorch is loaded.
        os.environ.update(said)
        from gemkern.experiments.ray_engine import run_task

        return run_task(path, here)

    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(task).remote


def run_task(path: str, here: str) -> State:
    """Run the job in a folder as `gemkern job` does; return how far it is.

    Args:
        here: the folder to run in, in which own networks and data are found.

    Raises:
        GemkernError: this node does not see the folders, or another process keeps the job.
    """
    # As the command line does, before any thread is started.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    for needed in (path, here):
        if not os.path.isdir(needed):
            raise GemkernError(
                f"{needed} is not there on {socket.gethostname()}: let all nodes share it"
            )
    os.chdir(here)
    own, stop = JobFolder(Path(path)), Stop()
    try:
        with stop.listening():
            laboratory = laboratory_of(Settings.of(own.job().settings))
            warm_up(laboratory)
            _run(own, laboratory, stop)
    except Stopped:
        pass
    except Busy:
        raise
    except Exception as error:
        own.try_to_fail(error)
    return own.state()


def _run(own: JobFolder, laboratory: Laboratory, stop: Stop) -> None:
    """Run a job, when nobody else does: a node that died may hold its lock for some time."""
    deadline = time.monotonic() + LEASE
    while True:
        try:
            run_job(own, laboratory, stop=stop)
            return
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK)


def _state_after(own: JobFolder, ray: Any, task: Any) -> State:
    """Return how far the job is whose task has ended; what went wrong is written down."""
    try:
        state = ray.get(task)
    except Exception as error:
        # Ray's own error of a task holds the whole story of the other process in its words.
        own.try_to_fail(getattr(error, "cause", None) or error)
        return "failed"
    deadline = time.monotonic() + LEASE
    while own.state() != state:
        if time.monotonic() > deadline:
            own.fail(GemkernError(f"what the job wrote to {own.path} on its node is not seen here"))
            return "failed"
        time.sleep(LOOK)
    return state
