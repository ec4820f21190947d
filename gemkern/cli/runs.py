"""Commands that run something: a race, a search, a finetuning, or one job of them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gemkern.cli.console import console, say
from gemkern.cli.holding import (
    end,
    epochs_left,
    hold_race,
    make_ready,
    print_savings,
    run_together,
    told_how_to_go_on,
)
from gemkern.cli.options import (
    Address,
    Asked,
    By,
    Cpus,
    Engine,
    Gpus,
    Seeds,
    listed,
    with_options,
)
from gemkern.cli.progress import progress
from gemkern.experiments.job import Job, job
from gemkern.experiments.job_folder import Busy, JobFolder
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.running import laboratory_of, run_job
from gemkern.experiments.settings import Settings
from gemkern.experiments.stopping import Stop
from gemkern.report import (
    gain_table,
    race_figure,
    race_table,
)
from gemkern.tickets import METHODS, Ticket

Methods = Annotated[str, typer.Option(help=f"Out of {', '.join(METHODS)}.")]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**31, help="Seed of the weights, the scores and the data order."),
]
Of = Annotated[
    str | None,
    typer.Option(help="Whose tickets are shuffled, reinitialised, drawn anew: gem-miner's if not."),
]
DEFAULT_METHODS = "dense,gem-miner,imp,random"


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
    of: Of = None,
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
    names = listed(methods)
    chosen = Engine(engine, address, cpus_per_job, gpus_per_job)
    is_bare = asked.is_bare and (methods, seeds, of) == (DEFAULT_METHODS, 3, None)
    folder, settings = hold_race(asked, names, seeds, of, chosen, is_bare)
    if settings is None:
        return
    runs, failures = folder.runs(), folder.failures()
    console.print(race_table(runs, failures=failures))
    if runs:
        race_figure(runs, folder.epochs(), asked.out / "race.png")
        console.print(gain_table(runs))
    print_savings(settings, folder.savings(), asked.out)
    say(f"results, tickets and race.png are in {asked.out}")
    end(folder)


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
        return [job(fixed, loaded.method, [seed], ("finetune",), loaded.digest)]

    what = {"ticket": str(ticket), "seed": seed}
    command = f"finetune {shlex.quote(str(ticket))}"
    density = loaded.density
    folder = run_together(asked, False, planned, what, command, [loaded], density=density)
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
    make_ready(laboratory)
    left = epochs_left([what], laboratory, own.epochs())
    stop, done = Stop(), len(own.epochs())
    with told_how_to_go_on(f"job {shlex.quote(str(folder))}"):
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
    folder = run_together(asked, asked.is_bare and seed == 0, planned, what, command)
    if folder is None:
        return
    for path in folder.tickets().values():
        ticket, epochs = Ticket.load(path), folder.epochs()
        say(
            f"{method} kept {ticket.weights_left} weights ({100 * ticket.density:.2f} %) "
            f"after {len(epochs)} epochs and {epochs[-1].seconds:.1f} s: {path}"
        )
