"""The command that checks tickets: do they know more than their layer densities?"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gemkern.cli.console import console, say
from gemkern.cli.holding import run_together
from gemkern.cli.options import Asked, Seeds, listed, with_options
from gemkern.experiments.job import CHECKS, Job, plan_checks
from gemkern.experiments.settings import Settings
from gemkern.report import race_table, verdict_table
from gemkern.tickets import Ticket

Checks = Annotated[str, typer.Option(help=f"Out of {', '.join(CHECKS)}.")]
DEFAULT_CHECKS = "shuffled,reinitialised,random"


def register(app: typer.Typer) -> None:
    """Enter the command."""
    app.command("check")(check_command)


@with_options(out="runs/check", methods=["gem-miner"], without=["density"])
def check_command(
    asked: Asked,
    tickets: Annotated[list[Path], typer.Argument(help="*.ticket.safetensors of one method.")],
    checks: Checks = DEFAULT_CHECKS,
    seeds: Seeds = 3,
) -> None:
    """Finetune tickets, and what sanity checks make of them, and say what they differ by.

    A check that a ticket does not lose by shows that it knows no more than its layer densities:
    its masks permuted within each layer (shuffled), over other initial weights (reinitialised), at
    random places (random), or found by freezing the highest scores (inverted: a whole search).
    """
    loaded = [Ticket.load(path) for path in tickets]
    names = listed(checks)
    first = loaded[0]
    asked = replace(asked, chosen={"model": first.model} | asked.chosen)

    def planned(settings: Settings) -> list[Job]:
        return plan_checks(settings, loaded, names, seeds)

    what = {"tickets": [str(path) for path in tickets], "checks": list(names), "seeds": seeds}
    command = shlex.join(["check", *map(str, tickets)])
    folder = run_together(asked, False, planned, what, command, loaded, density=first.density)
    if folder is not None:
        console.print(race_table(folder.runs()))
        console.print(verdict_table(folder.runs(), first.method, names))
        say(f"results are in {asked.out}")
