"""All commands, and how they end."""

from __future__ import annotations

import sys

import torch
import typer

from gemkern.cli import checks, looks, reproduce, runs
from gemkern.cli.holding import STOPPED
from gemkern.errors import GemkernError
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.nn import keep_freed_memory

app = typer.Typer(
    help="Find lottery tickets in one training run, and race the ways to find them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for register in (runs.register, checks.register, reproduce.register, looks.register):
    register(app)


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit code 2."""
    # Before any thread is started: threads inherit the state that `reproducible_numerics` sets.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    try:
        with Stop().listening():
            app()
    except GemkernError as error:
        print(f"gemkern: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped:
        print("gemkern: stopped before it began: give the same command again", file=sys.stderr)
        sys.exit(STOPPED)
