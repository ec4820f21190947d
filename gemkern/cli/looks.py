"""Commands that run nothing: they show, or fetch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table

from gemkern.cli.console import console, say
from gemkern.data import fetching
from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Run
from gemkern.experiments.run_folder import RunFolder
from gemkern.report import (
    gain_table,
    info,
    jobs_table,
    overlap_table,
    race_figure,
    race_table,
    ticket_figure,
    ticket_table,
)
from gemkern.tickets import Ticket

TICKET = ".ticket.safetensors"


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("show")(show_command)
    app.command("fetch")(fetch_command)
    app.command("info")(info_command)


def show_command(
    what: Annotated[Path, typer.Argument(help="The folder of a run, or a ticket file.")],
    other: Annotated[
        Path | None, typer.Argument(help="Another ticket, to see what both have in common.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where the picture goes, if not beside what is shown.")
    ] = None,
) -> None:
    """Show how far a run is and what it came to, or what is in a ticket; write the picture."""
    if other is None and os.path.isdir(what):
        _show_run(RunFolder.load(what), picture or what / "race.png")
    else:
        _show_tickets([what] if other is None else [what, other], picture)


def fetch_command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(fetching.NAMES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the files, for --data-dir.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder that holds the same files.")
    ] = None,
) -> None:
    """Fetch a data set as it is published, and check it."""
    fetching.fetch(name, out, mirror)
    say(f"{name} is in {out}: --data {name} --data-dir {shlex.quote(str(out))}")


def info_command() -> None:
    """Show versions, devices and backends, and why each backend can or cannot serve."""
    console.print(info())


class Shown(NamedTuple):
    """What is shown of a run: its command, tables, and what its picture is drawn of."""

    command: str
    tables: list[Table]
    runs: list[Run]
    epochs: list[EpochRecord]


def shown(folder: RunFolder) -> Shown:
    """Return what jobs have by now: nothing is gathered of those that run elsewhere, one by one.

    Raises:
        GemkernError: a file of the run is damaged.
    """
    tables = [jobs_table(folder)]
    jobs = [folder.look_at(job) for job in folder.jobs()]
    runs = [run for own in jobs if own.state() == "finished" for run in own.result().runs]
    if runs:
        tables += [race_table(runs), gain_table(runs)]
    epochs = [record for own in jobs for record in own.epochs()] if runs else []
    return Shown(folder.command(), tables, runs, epochs)


def _show_run(folder: RunFolder, picture: Path) -> None:
    found = shown(folder)
    say(found.command)
    for table in found.tables:
        console.print(table)
    if found.runs:
        _draw(lambda path: race_figure(found.runs, found.epochs, path), picture)
    else:
        for path in sorted(folder.path.glob(f"*{TICKET}")):
            say(f"a ticket is in {path}")


def _show_tickets(paths: Sequence[Path], picture: Path | None) -> None:
    for path in paths:
        if os.path.isdir(path):
            raise GemkernError(f"{path} is a folder: give two ticket files to compare")
    tickets = [Ticket.load(path) for path in paths]
    tables = [ticket_table(ticket) for ticket in tickets]
    if len(tickets) > 1:
        tables.append(overlap_table(*tickets))
    for table in tables:
        console.print(table)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    drawn = dict(zip(names, tickets, strict=True))
    beside = paths[0].with_name(paths[0].name.removesuffix(TICKET) + ".png")
    _draw(lambda path: ticket_figure(drawn, path), picture or beside)


def _draw(write: Callable[[Path], None], picture: Path) -> None:
    try:
        write(picture)
    except GemkernError as error:
        raise GemkernError(f"{error} with --picture") from error
    say(f"the picture is in {picture}")
