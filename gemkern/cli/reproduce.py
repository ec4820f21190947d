"""The command that runs the rows of a table of the paper, and shows both side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gemkern.cli.console import console, say
from gemkern.cli.holding import FAILED, hold_race
from gemkern.cli.options import Address, Asked, By, Cpus, Engine, Gpus, Seeds, with_options
from gemkern.errors import GemkernError
from gemkern.experiments.paper import TABLES, Row, Table
from gemkern.experiments.records import Run
from gemkern.experiments.run_folder import CONFIG, RESULTS, RunFolder
from gemkern.report import paper_table

Name = Annotated[str, typer.Argument(help=f"{', '.join(TABLES)}.")]
Rows = Annotated[str | None, typer.Option(help="Names of rows; all if nothing is said.")]


def register(app: typer.Typer) -> None:
    """Enter the command."""
    app.command("reproduce")(reproduce_command)


@with_options(out="runs/reproduce", without=["model", "density"])
def reproduce_command(
    asked: Asked,
    name: Name,
    rows: Rows = None,
    seeds: Seeds = 1,
    engine: By = "process",
    address: Address = None,
    cpus_per_job: Cpus = None,
    gpus_per_job: Gpus = None,
) -> None:
    """Run the rows of a table of "Rare Gems", and print the paper's numbers beside ours.

    Each row is a race in a folder of its own below --out; a row that has not been run says so. A
    budget, fewer images and other changes are said in the title.
    """
    chosen = Engine(engine, address, cpus_per_job, gpus_per_job)
    table = _known(name)
    wanted = _rows(name, rows)
    if asked.preset is not None:
        raise GemkernError("a row of the paper has its own preset: leave --preset out")
    failed = False
    for row in wanted:
        say(f"{name}, {row.name}: {row.label}")
        command = f"reproduce {name} --rows {row.name} {shlex.join(_words(asked, seeds))}"
        methods = (row.method, *table.checks)
        folder, settings = hold_race(
            _asked(asked, row), methods, seeds, row.method, chosen, command=command
        )
        failed |= settings is not None and bool(folder.failures())
    if engine == "none":
        return
    runs = {row.name: _runs(asked.out / row.name) for row in table.rows}
    console.print(paper_table(table, runs, _changes(asked)))
    raise typer.Exit(FAILED if failed else 0)


def _known(name: str) -> Table:
    if name not in TABLES:
        raise GemkernError(f"no table is called {name!r}: give one of {', '.join(TABLES)}")
    return TABLES[name]


def _rows(name: str, rows: str | None) -> list[Row]:
    """Return the rows that are wanted.

    Raises:
        GemkernError: there is none of a name.
    """
    known = {row.name: row for row in TABLES[name].rows}
    names = list(known) if rows is None else [one.strip() for one in rows.split(",")]
    if unknown := [one for one in names if one not in known]:
        raise GemkernError(f"{name} has no row {unknown[0]!r}: give --rows of {', '.join(known)}")
    return [known[one] for one in names]


def _asked(asked: Asked, row: Row) -> Asked:
    """Return what a row is asked for: its own settings, and over them what was given."""
    own = {**row.changes, **asked.chosen}
    out = asked.out / row.name
    # A row that was begun goes on; one that was not begins, whatever --resume says.
    resume = asked.resume and (out / CONFIG).exists()
    return replace(asked, preset=row.preset, chosen=own, out=out, resume=resume)


def _runs(folder: Path) -> list[Run]:
    return RunFolder(folder).runs() if (folder / RESULTS).exists() else []


def _changes(asked: Asked) -> list[str]:
    """Return in words what is otherwise than in the paper."""
    said = [f"{name} {value}" for name, value in asked.chosen.items() if name not in SILENT]
    budget = [f"{100 * asked.budget:g} % of the epochs"] if asked.budget != 1 else []
    epochs = [f"{asked.epochs} epochs"] if asked.epochs is not None else []
    return [*budget, *epochs, *said, *asked.assign]


# Settings that say where something runs, not what.
SILENT = ("data_dir", "device")


def _words(asked: Asked, seeds: int) -> Sequence[str]:
    """Return the options that a row was asked for with, to go on with it."""
    words = ["--seeds", str(seeds)]
    for name, value in asked.chosen.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    for assignment in asked.assign:
        words += ["--set", assignment]
    if asked.epochs is not None:
        words += ["--epochs", str(asked.epochs)]
    return [*words, "--budget", f"{asked.budget:g}"] if asked.budget != 1 else words
