"""How a command runs what it was asked for: a folder of jobs, made or gone on with."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import typer

from gemkern.cli.console import console, say
from gemkern.cli.options import Asked, Engine
from gemkern.cli.progress import progress
from gemkern.errors import GemkernError
from gemkern.experiments.job import Job, check_methods, plan
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.logs import LOGS
from gemkern.experiments.race import check_resumed, follow, run_in_turn
from gemkern.experiments.ranks import ALONE, Ranks, joined
from gemkern.experiments.ray_engine import run_on_ray
from gemkern.experiments.records import EpochRecord, Saving
from gemkern.experiments.run_folder import CONFIG, RunFolder
from gemkern.experiments.running import laboratory_of
from gemkern.experiments.settings import Settings, settings_among
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.experiments.warm_up import warm_up
from gemkern.files import check_place
from gemkern.report import (
    devices,
    savings_table,
    settings_table,
    versions,
)
from gemkern.starting import STOPPED
from gemkern.tickets import Ticket
from gemkern.training.forms import MEASURE, NEVER

# Exit codes: a job failed; the run was stopped.
FAILED = 1
READY = "making the CPU kernels ready"


def hold_race(
    asked: Asked,
    methods: tuple[str, ...],
    seeds: int,
    of: str | None,
    engine: Engine,
    is_bare: bool = False,
    command: str = "race",
) -> tuple[RunFolder, Settings | None]:
    """Hold a race, or go on with it; return its folder, and its settings unless jobs were listed.

    Args:
        is_bare: nothing was asked for but to go on.
        command: what goes on with it, without --out and --resume.

    Raises:
        GemkernError: something does not fit together.
    """
    check_methods(methods, of)

    def planned(settings: Settings) -> list[Job]:
        return plan(settings, methods, range(seeds), of)

    # A list of commands is read by another program: nothing else is printed.
    with console.capture() if engine.name == "none" else nullcontext():
        what = {"methods": list(methods), "seeds": seeds}
        folder, laboratory = _open(asked, is_bare, planned, what)
    if engine.name == "none" and _list_jobs(folder):
        return folder, None
    if engine.name == "ray":
        words = f"{command} {shlex.join(['--engine', 'ray', *engine.given])}"
        _run(folder, laboratory, asked.log, words, run=_on_ray(engine, laboratory))
    else:
        _run(folder, laboratory, asked.log, command)
    return folder, laboratory.settings


def run_together(
    asked: Asked,
    is_bare: bool,
    planned: Callable[[Settings], list[Job]],
    what: dict[str, Any],
    command: str,
    given: Sequence[Ticket] = (),
    **fixed: Any,
) -> RunFolder | None:
    """Run a job on all ranks that were started; return its folder, on the first of them."""
    with joined(asked.chosen.get("device")) as ranks:
        laboratories: list[Laboratory] = []

        def opened() -> tuple[RunFolder, Settings]:
            folder, laboratory = _open(asked, is_bare, planned, what, given, **fixed)
            laboratories.append(laboratory)
            for one in folder.jobs():
                own = [ticket for ticket in given if ticket.digest == one.ticket]
                folder.folder_of(one).give(own)
            return folder, laboratory.settings

        folder, settings = ranks.from_first(opened)
        alone = ranks.count == 1
        laboratory = laboratories[0] if alone else laboratory_of(ranks.of(settings))
        if not ranks.is_first:
            _follow(folder, laboratory, ranks)
            return None
        _run(folder, laboratory, asked.log, command, ranks)
        for failure in folder.failures():
            raise GemkernError(failure.why)
        print_savings(laboratory.settings, folder.savings(), asked.out)
        return folder


def _open(
    asked: Asked,
    is_bare: bool,
    planned: Callable[[Settings], list[Job]],
    what: dict[str, Any],
    given: Sequence[Ticket] = (),
    **fixed: Any,
) -> tuple[RunFolder, Laboratory]:
    """Return the folder of a run that is asked for, and where it is held."""
    check_place(asked.out / CONFIG)
    exists = (asked.out / CONFIG).exists()
    if asked.resume and exists and is_bare:
        return _reopened(asked, what)
    settings = asked.settings(**fixed)
    jobs = planned(settings)
    if asked.resume and exists:
        folder = RunFolder.load(asked.out)
        check_resumed(folder, jobs)
        return folder, laboratory_of(settings)
    RunFolder.check_new(asked.out)
    laboratory = laboratory_of(settings)
    rehearse(laboratory, [one.method for one in jobs if "find" in one.phases])
    for ticket in given:
        laboratory.finetuning(laboratory.with_ticket(ticket, seed=0))
    config = {**settings.as_dict({one.method for one in jobs} | {"gem-miner"}), **what}
    command = shlex.join(["gemkern", *sys.argv[1:]])
    about = {"versions": versions(), "devices": devices()}
    folder = RunFolder.create(asked.out, config=config, command=command, jobs=jobs, about=about)
    console.print(settings_table(config))
    return folder, laboratory


def _reopened(asked: Asked, what: dict[str, Any]) -> tuple[RunFolder, Laboratory]:
    folder = RunFolder.load(asked.out)
    config = folder.asked()
    if not what.keys() <= config.keys():
        raise GemkernError(
            f"{asked.out} is a run of another command ({folder.command()}): go on with that, or "
            "choose another --out"
        )
    return folder, laboratory_of(settings_among(config).changed(**asked.chosen))


def _follow(folder: RunFolder, laboratory: Laboratory, ranks: Ranks) -> None:
    """Take part in what the first rank runs and tells of."""
    stop = Stop()
    with stop.listening():
        try:
            follow(folder, laboratory, stop, ranks)
        except Stopped:
            raise typer.Exit(STOPPED) from None


def _on_ray(chosen: Engine, laboratory: Laboratory) -> Callable[..., None]:
    """Return what runs jobs as was chosen; a job on a GPU takes one, if nothing was said."""
    on_gpu = laboratory.settings.device.startswith("cuda")
    cpus = 1.0 if chosen.cpus_per_job is None else chosen.cpus_per_job
    gpus = float(on_gpu) if chosen.gpus_per_job is None else chosen.gpus_per_job
    return partial(run_on_ray, address=chosen.address, cpus=cpus, gpus=gpus)


def _list_jobs(folder: RunFolder) -> bool:
    """Print the command of each job that is left, those last that need another's ticket."""
    left = {(one.method, one.seeds): folder.folder_of(one) for one in folder.left()}
    for own in sorted(left.values(), key=lambda own: own.job().needs is not None):
        awaited = left.get((own.job().needs or "", own.job().seeds))
        after = f"  # after {awaited.path.name}" if awaited else ""
        print(f"gemkern job {shlex.quote(str(own.path))}{after}")
    return bool(left)


def _run(
    folder: RunFolder,
    laboratory: Laboratory,
    log: str,
    command: str,
    ranks: Ranks = ALONE,
    run: Callable[..., None] | None = None,
) -> None:
    """Run what is left of a run, by `run` or in turn in this process, and gather it."""
    with told_how_to_go_on(f"{command} --out {shlex.quote(str(folder.path))} --resume"):
        jobs, stop = folder.jobs(), Stop()
        done = [record for one in jobs for record in folder.folder_of(one).epochs()]
        if run is None:
            run = partial(run_in_turn, laboratory=laboratory, ranks=ranks)
            if folder.left():
                make_ready(laboratory)
        left = epochs_left(jobs, laboratory, done)
        bar = progress(left, len(done))
        with stop.listening(), bar as show, LOGS[log](folder.path) as also:

            def on_epoch(record: EpochRecord) -> None:
                show(record)
                also(record)

            run(folder, on_epoch=on_epoch, stop=stop)


@contextmanager
def told_how_to_go_on(command: str) -> Iterator[None]:
    """Let a run that is stopped say how to go on with it."""
    try:
        yield
    except Stopped:
        print(f"gemkern: stopped; go on with: gemkern {command}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None


def end(folder: RunFolder) -> None:
    """Say what failed, and let the exit code say it."""
    failures = folder.failures()
    for failure in failures:
        say(failure.sentence)
    if failures:
        raise typer.Exit(FAILED)


def epochs_left(
    jobs: Sequence[Job], laboratory: Laboratory, done: Sequence[EpochRecord]
) -> Counter[tuple[str, str]]:
    """Return how many epochs of each method and phase are left of `jobs`."""
    methods = {one.method for one in jobs if "find" in one.phases}
    searches = rehearse(laboratory, sorted(methods))
    left: Counter[tuple[str, str]] = Counter()
    for one in jobs:
        if "find" in one.phases:
            left[one.method, "find"] += searches[one.method] * len(one.seeds)
        if "finetune" in one.phases:
            left[one.method, "finetune"] += laboratory.settings.finetune_epochs * len(one.seeds)
    left.subtract((record.method, record.phase) for record in done)
    return +left


def make_ready(laboratory: Laboratory) -> None:
    """Compile the kernels of a run before it is timed; a terminal sees how many are done."""
    if not laboratory.may_accelerate:
        return
    # Numba is there only where kernels are served.
    from gemkern.kernels.cpu.machine.compiling import counting

    began, compiled = monotonic(), 0

    def show(count: int) -> None:
        nonlocal compiled
        compiled = count
        status.update(f"{READY}: {compiled} compiled")

    with console.status(READY) as status, counting(show):
        warm_up(laboratory)
    if compiled:
        say(f"{compiled} CPU kernels compiled in {monotonic() - began:.0f} s")


def print_savings(settings: Settings, savings: Sequence[Saving], out: Path) -> None:
    if settings.accelerate != NEVER:
        console.print(savings_table(savings))
    if settings.accelerate == MEASURE:
        say(f"for the same bits again, replay what was measured: --set accelerate={out}")
