"""Commands that run nothing: they show, or fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemkern.cli.console import console
from gemkern.data import fetching
from gemkern.errors import GemkernError
from gemkern.experiments.run_folder import RESULTS, RunFolder
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
    if what.is_dir():
        if other is not None:
            raise GemkernError(f"{what} is a folder: give two ticket files to compare")
        _show_run(RunFolder.load(what), picture or what / "race.png")
        return
    ticket = Ticket.load(what)
    console.print(ticket_table(ticket))
    tickets = {what.name: ticket}
    if other is not None:
        tickets[other.name if other.name != what.name else str(other)] = Ticket.load(other)
        console.print(overlap_table(*tickets.values()))
    path = picture or what.with_name(what.name.removesuffix(".ticket.safetensors") + ".png")
    ticket_figure(tickets, path)
    console.print(f"the picture is in {path}")


def fetch_command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(fetching.NAMES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the files, for --data-dir.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder that holds the same files.")
    ] = None,
) -> None:
    """Fetch a data set as it is published, and check it."""
    fetching.fetch(name, out, mirror)
    console.print(f"{name} is in {out}: --data {name} --data-dir {out}")


def info_command() -> None:
    """Show versions, devices and backends, and why each backend can or cannot serve."""
    console.print(info())


def _show_run(folder: RunFolder, picture: Path) -> None:
    console.print(f"{folder.config().get('command', '')}", markup=False)
    console.print(jobs_table(folder))
    runs = folder.runs() if (folder.path / RESULTS).exists() else []
    if runs:
        console.print(race_table(runs))
        console.print(gain_table(runs))
        race_figure(runs, folder.epochs(), picture)
        console.print(f"the picture is in {picture}")
