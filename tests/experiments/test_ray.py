"""Races on a Ray cluster, and as jobs for other schedulers: the numbers of one process."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command import call

from benchmarks.soak.subjects import outcome
from gemkern.errors import GemkernError
from gemkern.experiments import ray_engine
from gemkern.experiments.job_folder import Busy, JobFolder
from gemkern.experiments.ray_engine import run_task
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.running import run_job

pytestmark = pytest.mark.timeout(900)

SHORT = [
    "race", "--data", "digits", "--train-limit", "128", "--density", "0.3", "--device", "cpu",
    "--set", "batch_size=32", "--set", "freeze_every=1", "--set", "accelerate=never",
    "--set", "mine_epochs=4", "--set", "finetune_epochs=2",
]  # fmt: skip
# Of a seed whose jobs fail, too.
LONG = [
    *SHORT, "--model", "code_of_a_user:build", "--methods", "random,gem-miner,dense",
    "--seeds", "2", "--set", "mine_epochs=20", "--set", "finetune_epochs=15", "--out", "race",
]  # fmt: skip
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}
# A network that is found, and reads a file, in the folder in which the race is started. It can be
# slow without work for the machine, to be hit in the middle.
CODE = """
import os, time
from pathlib import Path
from torch import nn

class Pace(nn.Module):
    def __init__(self):
        super().__init__()
        self.seconds = float(Path("pace").read_text())
    def forward(self, images):
        time.sleep(self.seconds)
        return images

def build(classes, channels, seed):
    if seed == 1:
        raise ZeroDivisionError("by chance")
    Path(f"gpus-of-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return nn.Sequential(
        Pace(), nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""


def work_place(folder: Path, pace: str) -> Path:
    """Make a folder to start a race in, with the code of a user."""
    (folder / "code_of_a_user.py").write_text(CODE)
    (folder / "pace").write_text(pace)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(work_place(tmp_path, "0.03"))
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the long race comes to in one process."""
    folder = work_place(tmp_path_factory.mktemp("alone"), "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *LONG) == 1
    return outcome(folder / "race")


@pytest.fixture(scope="module")
def quiet() -> Iterator[Path]:
    """A folder for what Ray keeps; its name is short, for sockets. Nobody is left there."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray would leave one in the home folder.
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test" * 3)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
    try:
        wait_for(lambda: not processes(folder), 20)
    finally:
        for pid in processes(folder):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(quiet: Path) -> Iterator[Any]:
    """Two nodes with a CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    without = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, **without})
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def opened(pid: int | str) -> list[Path]:
    """Return what a process has open."""
    try:
        return [Path(os.readlink(link)) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def processes(folder: Path) -> set[int]:
    """Return the others that have something open in `folder`."""
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")} - {os.getpid()}
    return {pid for pid in pids if any(folder in path.parents for path in opened(pid))}


def descendants(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [one for child in map(int, text.split()) for one in (child, *descendants(child))]


def wait_for(condition: Callable[[], Any], patience: float = 150) -> Any:
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def seconds(job: Path) -> list[float]:
    """Return when each epoch ended: one that is trained again ends at another time."""
    lines = (job / "epochs.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["seconds"] for line in lines if line.endswith("\n")]


def lines_of(errors: str) -> list[str]:
    """Return what was said beside the bar of progress."""
    last = [line.split("\r")[-1] for line in errors.splitlines()]
    return [line for line in last if line and "epochs [" not in line]


def test_a_race_outlives_a_node_and_jobs_that_fail(
    cluster: Any,
    alone: dict[str, Any],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid

    def halfway() -> Path | None:
        for path in [path for pid in descendants(raylet) for path in opened(pid)]:
            job = path.parent
            if path.name == ".lock" and any(job.glob("checkpoint-*")) and len(seconds(job)) > 3:
                return job
        return None

    def kill() -> tuple[Path, list[float]]:
        job = wait_for(halfway)
        for pid in (raylet, *descendants(raylet)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        (place / "pace").write_text("0")
        assert not (job / "result.json").exists()
        return job, seconds(job)

    words = [*LONG, "--set", "checkpoint_minutes=0.001", "--engine", "ray"]
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill)
        assert call(monkeypatch, *words, "--address", cluster.address) == 1
        job, before = killed.result()
    cluster.remove_node(node, allow_graceful=False)
    # With what waited for a ticket, and what failed.
    assert outcome(place / "race") == alone
    # It went on from a checkpoint: what was trained before was not trained again.
    assert seconds(job)[:3] == before[:3]
    assert lines_of(capfd.readouterr().err) == []


def test_a_signal_stops_a_race_which_goes_on_anywhere(
    quiet: Path, alone: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = processes(quiet)
    # A job takes half a GPU, which this machine need not have: Ray counts them.
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 1, "GPU": 1}')
    words = [*LONG, "--engine", "ray", "--gpus-per-job", "0.5"]
    command = [sys.executable, "-m", "gemkern", *words]
    out, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(command, stdout=out, stderr=pipe, text=True)
    try:

        def halfway() -> list[Path]:
            assert process.poll() is None, process.communicate()
            jobs = [path.parent for path in place.glob("race/jobs/gem-miner-*/epochs.jsonl")]
            return [job for job in jobs if len(seconds(job)) > 3]

        (job,) = wait_for(halfway)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    again = "race --engine ray --gpus-per-job 0.5 --out race --resume"
    assert lines_of(errors) == [f"gemkern: stopped; go on with: gemkern {again}"]
    wait_for(lambda: processes(quiet) <= before, 20)
    (place / f"gpus-of-{process.pid}").unlink()
    assert [path.read_text() for path in place.glob("gpus-of-*")] == ["0"]
    assert job.name in json.loads((place / "race/results.json").read_text())["left"]
    trained = seconds(job)
    (place / "pace").write_text("0")
    assert call(monkeypatch, "race", "--out", "race", "--resume") == 1
    assert seconds(job)[: len(trained)] == trained
    assert outcome(place / "race") == alone


def test_a_job_that_no_node_can_take_is_refused(
    cluster: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*LONG, "--engine", "ray", "--address", cluster.address, "--gpus-per-job", "2"]
    assert call(monkeypatch, *words) == 2
    assert "1 CPUs and 2 GPUs, which no node of the cluster has" in capfd.readouterr().err


@pytest.fixture
def own(place: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolder:
    """The folder of a job that nobody has begun."""
    assert call(monkeypatch, *LONG, "--methods", "dense", "--seeds", "1", "--engine", "none") == 0
    folder = RunFolder.load("race")
    return folder.folder_of(folder.jobs()[0])


def test_a_task_that_is_told_to_stop_ends_its_step(own: JobFolder, place: Path) -> None:
    def signalled() -> None:
        wait_for(lambda: (own.path / "epochs.jsonl").exists() and own.epochs())
        os.kill(os.getpid(), signal.SIGINT)

    torch.set_flush_denormal(False)
    with ThreadPoolExecutor() as pool:
        told = pool.submit(signalled)
        assert run_task(str(own.path.resolve()), str(place)) == "stopped"
        told.result()
    assert any(own.checkpoints().states())
    assert torch.tensor(1e-40) * 1.0 == 0, "threads to come are to flush denormals too"


def test_a_task_waits_for_who_has_its_job(
    own: JobFolder, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(*given: Any, **options: Any) -> Any:
        try:
            return run_job(*given, **options)
        except Busy:
            held.close()
            raise

    monkeypatch.setattr(ray_engine, "run_job", tried)
    path = str(own.path.resolve())
    with ExitStack() as held:
        held.enter_context(own.locked())
        assert run_task(path, str(place)) == "finished"
    (own.path / "result.json").unlink()
    monkeypatch.setattr(ray_engine, "LEASE", 0.1)
    with own.locked(), pytest.raises(Busy):
        run_task(path, str(place))


def test_a_task_names_a_folder_that_its_node_does_not_see(own: JobFolder, place: Path) -> None:
    for folders in ((own.path.resolve(), place / "nowhere"), (place / "nowhere", place)):
        with pytest.raises(GemkernError, match=r"nowhere is not there on .*: let all nodes"):
            run_task(*map(str, folders))
    assert not (place / "nowhere").exists()


# What a race asks of Ray, here: a task is done when it is asked for its value.
IN_TURN = SimpleNamespace(get=lambda task: task(), wait=lambda tasks, timeout: (tasks, []))


def outcomes_of(*tasks: Callable[[], str]) -> list[tuple[str, bool]]:
    """Return which jobs of the race end, and whether they finish, where these are their tasks."""
    ended: list[tuple[str, bool]] = []
    submitted = iter(tasks)
    race = ray_engine._Tasks(
        RunFolder.load("race"),
        IN_TURN,
        lambda path, here: next(submitted),
        on_epoch=lambda record: None,
        on_result=lambda job, result: ended.append((job.method, result is not None)),
    )
    while race.left or race.running:
        race.begin()
        race.look()
    return ended


def test_a_job_whose_node_was_told_to_stop_is_begun_again(own: JobFolder, place: Path) -> None:
    (place / "pace").write_text("0")
    whole = partial(run_task, str(own.path.resolve()), str(place))
    assert outcomes_of(lambda: "waiting", whole) == [("dense", True)]


def test_what_is_not_seen_of_a_job_is_a_failure(
    own: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "LEASE", 0.1)
    assert outcomes_of(lambda: "finished") == [("dense", False)]
    assert "on its node is not seen here" in own.failure()


def test_engine_none_lists_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a folder"
    words = [*SHORT, "--methods", "random,dense,gem-miner", "--seeds", "2", "--out", out]
    assert call(monkeypatch, *words, "--engine", "none") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    folder = RunFolder.load(out)
    paths = [str(out / "jobs" / job.name) for job in folder.jobs()]
    assert sorted(commands) == sorted(["gemkern", "job", path] for path in paths)
    assert {folder.state_of(job) for job in folder.jobs()} == {"waiting"}
    awaited = {job.seeds: job.name for job in folder.jobs() if job.method == "gem-miner"}
    waiting = [f"  # after {awaited[job.seeds]}" for job in folder.jobs() if job.needs]
    assert [line[line.index("  # ") :] for line in lines[-2:]] == waiting
    assert not any("#" in line for line in lines[:-2])
    # It lists what is left, and when nothing is, what came of it.
    assert call(monkeypatch, *commands[0][1:]) == 0
    capsys.readouterr()
    again = ["race", "--out", out, "--resume", "--engine", "none"]
    assert call(monkeypatch, *again) == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]
    assert not any(call(monkeypatch, *command[1:]) for command in commands[1:])
    assert call(monkeypatch, *again) == 0
    assert "gem-miner beats" in capsys.readouterr().out
    assert len(folder.runs()) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "slurm"], "no engine is called 'slurm': give --engine process or ray or"),
        (["--cpus-per-job", "2"], "--cpus-per-job is an option of --engine ray"),
        (["--engine", "ray", "--gpus-per-job", "1.5"], "a job cannot have 1.5 GPUs"),
        (["--engine", "ray"], "Ray cannot be imported"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(monkeypatch, *SHORT, "--out", tmp_path / "race", *words) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"gemkern: {message}")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "race").exists()


def test_a_cluster_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--engine", "ray", "--address", "127.0.0.1:1", "--out", tmp_path / "race"]
    assert call(monkeypatch, *SHORT, *words) == 2
    (said,) = lines_of(capfd.readouterr().err)
    assert said.startswith("gemkern: the Ray cluster at 127.0.0.1:1 cannot be joined")
    assert not (tmp_path / "race").exists()
