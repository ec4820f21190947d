"""Commands that run something: a race, a search, a finetuning, or one job of them."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gemkern.cli.console import console, say
from gemkern.cli.options import Address, Asked, By, Cpus, Engine, Gpus, with_options
from gemkern.cli.progress import progress
from gemkern.errors import GemkernError
from gemkern.experiments.job import Job, check_methods, job, plan
from gemkern.experiments.job_folder import Busy, JobFolder
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.logs import LOGS
from gemkern.experiments.race import check_resumed, follow, run_in_turn
from gemkern.experiments.ranks import ALONE, Ranks, joined
from gemkern.experiments.ray_engine import run_on_ray
from gemkern.experiments.records import EpochRecord, Saving
from gemkern.experiments.run_folder import CONFIG, RunFolder
from gemkern.experiments.running import laboratory_of, run_job
from gemkern.experiments.settings import Settings, kinds
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.experiments.warm_up import warm_up
from gemkern.report import (
    devices,
    gain_table,
    race_figure,
    race_table,
    savings_table,
    settings_table,
    versions,
)
from gemkern.tickets import METHODS, Ticket
from gemkern.training.forms import MEASURE, NEVER

Methods = Annotated[str, typer.Option(help=f"Out of {', '.join(METHODS)}.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**31, help="Seed of the weights, the scores and the data order."),
]
DEFAULT_METHODS = "dense,gem-miner,imp,random"
# Exit codes: a job failed; the run was stopped.
FAILED, STOPPED = 1, 130


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("race")(race_command)
    app.command("mine")(mine_command)
    app.command("imp")(imp_command)
    app.command("finetune")(finetune_command)
    app.command("job")(job_command)


@with_options(out="runs/race", methods=METHODS)
def race_command(
    asked: Asked,
    methods: Methods = DEFAULT_METHODS,
    seeds: Seeds = 3,
    engine: By = "process",
    address: Address = None,
    cpus_per_job: Cpus = None,
    gpus_per_job: Gpus = None,
) -> None:
    """Find tickets by several methods at one density, finetune them, and compare.

    Each method starts from weights as its authors draw them: Gem-Miner from signed constants, IMP,
    smart ratio and dense training from Kaiming normal ones. --set init=NAME gives all the same
    start, --set imp_init=NAME one of them its own.
    """
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    check_methods(names)
    chosen = Engine(engine, address, cpus_per_job, gpus_per_job)
    is_bare = asked.is_bare and (methods, seeds) == (DEFAULT_METHODS, 3)

    def planned(settings: Settings) -> list[Job]:
        return plan(settings, names, range(seeds))

    # A list of commands is read by another program: nothing else is printed.
    with console.capture() if engine == "none" else nullcontext():
        what = {"methods": list(names), "seeds": seeds}
        folder, laboratory = _open(asked, is_bare, planned, what)
    if engine == "none" and _list_jobs(folder):
        return
    if engine == "ray":
        words = shlex.join(["race", "--engine", "ray", *chosen.given])
        _run(folder, laboratory, asked.log, words, run=_on_ray(chosen, laboratory))
    else:
        _run(folder, laboratory, asked.log, "race")
    runs, failures = folder.runs(), folder.failures()
    console.print(race_table(runs, failures=failures))
    if runs:
        race_figure(runs, folder.epochs(), asked.out / "race.png")
        console.print(gain_table(runs))
    _print_savings(laboratory.settings, folder.savings(), asked.out)
    say(f"results, tickets and race.png are in {asked.out}")
    _end(folder)


@with_options(out="runs/mine", methods=["gem-miner"])
def mine_command(asked: Asked, seed: Seed = 0) -> None:
    """Find a ticket with Gem-Miner."""
    _search("gem-miner", asked, seed, "mine")


@with_options(out="runs/imp", methods=["imp", "gem-miner"])
def imp_command(asked: Asked, seed: Seed = 0) -> None:
    """Find a ticket with iterative magnitude pruning."""
    _search("imp", asked, seed, "imp")


@with_options(out="runs/finetune", without=["density"])
def finetune_command(
    asked: Asked,
    ticket: Annotated[Path, typer.Argument(help="A *.ticket.safetensors file.")],
    seed: Seed = 0,
) -> None:
    """Train the weights of a ticket, and test it."""
    loaded = Ticket.load(ticket)
    asked = replace(asked, chosen={"model": loaded.model} | asked.chosen)

    def planned(settings: Settings) -> list[Job]:
        fixed = settings.changed(density=loaded.density)
        return [job(fixed, loaded.method, [seed], ("finetune",), loaded.checksum)]

    what = {"ticket": str(ticket), "seed": seed}
    command = f"finetune {shlex.quote(str(ticket))}"
    density = loaded.density
    folder = _run_together(asked, False, planned, what, command, [loaded], density=density)
    if folder is not None:
        console.print(race_table(folder.runs()))
        say(f"results are in {asked.out}")


def job_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a job, in jobs/ of a run.")],
    data_dir: Annotated[
        str | None, typer.Option(help="Folder that holds the data, if not where the run's lay.")
    ] = None,
) -> None:
    """Run one job of a race, or go on with it: a race on many machines is a job a line."""
    own = JobFolder(folder)
    what = own.job()
    settings = Settings.of(dict(what.settings) | ({"data_dir": data_dir} if data_dir else {}))
    run = folder.resolve().parent.parent
    if what.needs is not None and not own.given():
        own.give(RunFolder.load(run).given(what))
    laboratory = laboratory_of(settings)
    _warm_up(laboratory)
    left = _epochs_left([what], laboratory, own.epochs())
    stop, done = Stop(), len(own.epochs())
    with _told_how_to_go_on(f"job {shlex.quote(str(folder))}"):
        try:
            with stop.listening(), progress(left, done) as on_epoch:
                result = run_job(own, laboratory, on_epoch, stop)
        except Busy:
            raise
        except Exception as error:
            own.try_to_fail(error)
            raise
    if result.runs:
        console.print(race_table(result.runs))
    else:
        say(f"the ticket is in {folder}")


def _search(method: str, asked: Asked, seed: int, command: str) -> None:
    def planned(settings: Settings) -> list[Job]:
        return [job(settings, method, [seed], ("find",))]

    what = {"methods": [method], "seed": seed}
    folder = _run_together(asked, asked.is_bare and seed == 0, planned, what, command)
    if folder is None:
        return
    for path in folder.tickets().values():
        ticket, epochs = Ticket.load(path), folder.epochs()
        say(
            f"{method} kept {ticket.weights_left} weights ({100 * ticket.density:.2f} %) "
            f"after {len(epochs)} epochs and {epochs[-1].seconds:.1f} s: {path}"
        )


def _run_together(
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
            if given:
                folder.folder_of(folder.jobs()[0]).give(given)
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
        _print_savings(laboratory.settings, folder.savings(), asked.out)
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
    config = folder.config()["config"]
    if not what.keys() <= config.keys():
        raise GemkernError(
            f"{asked.out} is a run of another command ({folder.config().get('command')}): go on "
            "with that, or choose another --out"
        )
    known = {name: value for name, value in config.items() if name in kinds()}
    return folder, laboratory_of(Settings.of(known | asked.chosen))


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
    with _told_how_to_go_on(f"{command} --out {shlex.quote(str(folder.path))} --resume"):
        jobs, stop = folder.jobs(), Stop()
        done = [record for one in jobs for record in folder.folder_of(one).epochs()]
        if run is None:
            run = partial(run_in_turn, laboratory=laboratory, ranks=ranks)
            if folder.left():
                _warm_up(laboratory)
        left = _epochs_left(jobs, laboratory, done)
        bar = progress(left, len(done))
        with stop.listening(), bar as show, LOGS[log](folder.path) as also:

            def on_epoch(record: EpochRecord) -> None:
                show(record)
                also(record)

            run(folder, on_epoch=on_epoch, stop=stop)


@contextmanager
def _told_how_to_go_on(command: str) -> Iterator[None]:
    """Let a run that is stopped say how to go on with it."""
    try:
        yield
    except Stopped:
        print(f"gemkern: stopped; go on with: gemkern {command}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None


def _end(folder: RunFolder) -> None:
    """Say what failed, and let the exit code say it."""
    failures = folder.failures()
    for failure in failures:
        say(failure.sentence)
    if failures:
        raise typer.Exit(FAILED)


def _epochs_left(
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


def _warm_up(laboratory: Laboratory) -> None:
    # Where they are compiled, a warning says so (`gemkern.kernels.cpu.compiling`).
    with console.status("making the CPU kernels ready"):
        warm_up(laboratory)


def _print_savings(settings: Settings, savings: Sequence[Saving], out: Path) -> None:
    if settings.accelerate != NEVER:
        console.print(savings_table(savings))
    if settings.accelerate == MEASURE:
        say(f"for the same bits again, replay what was measured: --set accelerate={out}")
