"""All commands, and how they end."""

from __future__ import annotations

import os
import sys

import torch
import typer

from gemkern.cli import checks, looks, reproduce, runs
from gemkern.errors import GemkernError
from gemkern.experiments.stopping import Stop, Stopped
from gemkern.nn import keep_freed_memory
from gemkern.starting import SENTENCE, STOPPED

# Exit code of a command whose words could not be written; what it saved is whole.
UNHEARD = 74

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
            try:
                app()
            finally:
                sys.stdout.flush()
    except GemkernError as error:
        print(f"gemkern: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped:
        print(SENTENCE, file=sys.stderr)
        sys.exit(STOPPED)
    except OSError as error:
        if error.filename is not None:
            raise
        # Of what is printed: files that are opened have a name. What is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(
            f"gemkern: what it prints could not be written ({error.strerror}): let it print to a "
            "place that has room",
            file=sys.stderr,
        )
        sys.exit(UNHEARD)
