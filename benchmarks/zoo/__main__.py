"""Take gemkern through public architectures: what is served, what is not, and what it saves.

make zoo                                             all of them; keep benchmarks/results/zoo.json
python -m benchmarks.zoo --only resnet --seconds 0   some, untimed; nothing is kept

Each network has a process of its own, in which anything may go wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from benchmarks import result_files
from benchmarks.zoo.checks import ACCELERATED, DENSITY, MASKED, OK, PLAIN, Row
from benchmarks.zoo.nets import NETS, Net

QUESTIONS = ("output", "step", "switch", "mine", "ticket")
LIBRARIES = ("torchvision", "timm", "transformers")
# Of a training step's contenders, and of a whole network.
SECONDS, LIMIT = 4.0, 900.0
# Characters of reasons in the table, and of the table in a file.
WIDEST, PAGE = 240, 180
YES, NO, NOT_ASKED = "yes", "no", "-"


def examined(net: Net, seconds: float) -> Row:
    """Return what a process of its own finds of a network, or how it ended."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo.checks", net.title]
    row = Row(net.title, net.side, net.batch)
    try:
        run = subprocess.run(
            [*command, str(seconds)],
            cwd=result_files.ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        row.answers["process"] = f"it was not done in {LIMIT:g} seconds"
        return row
    if run.returncode == 0:
        return Row(**json.loads(run.stdout.strip().splitlines()[-1]))
    said = run.stderr.strip().splitlines()[-1:] or ["without a word"]
    row.answers["process"] = f"it ended with {run.returncode}: {said[0]}"
    return row


def table(rows: list[Row]) -> Table:
    """Return what was found, a line for each network, and what went wrong in sentences."""
    title = f"The zoo: density {DENSITY:.2%}, a training step's time over the accelerated one's"
    found = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    found.add_column("network")
    for column in (*QUESTIONS, "masked\n%", "masked\nstep", "PyTorch's\nstep"):
        found.add_column(column, justify="right")
    found.add_column("reasons", overflow="fold")
    for row in rows:
        answers = [_short(row, question) for question in QUESTIONS]
        speeds = [_faster(row, rival) for rival in (MASKED, PLAIN)]
        said = textwrap.shorten(reasons(row), WIDEST)
        cells = row.net, *answers, f"{100 * row.masked:.1f}", *speeds, said
        found.add_row(*map(Text, cells))
    return found


def reasons(row: Row) -> str:
    """Return what went wrong, what is not masked and what stays dense."""
    said = [f"{name}: {answer}" for name, answer in row.answers.items() if answer != OK]
    if row.unmasked:
        said.append("not masked: " + ", ".join(f"{n} {kind}" for kind, n in row.unmasked.items()))
    said += [f"dense: {name}, {reason}" for name, reason in row.dense.items()]
    return "; ".join(said)


def _short(row: Row, question: str) -> str:
    if question not in row.answers:
        return NOT_ASKED
    return YES if row.answers[question] == OK else NO


def _faster(row: Row, rival: str) -> str:
    return f"{row.times[rival] / row.times[ACCELERATED]:.1f}x" if row.times else NOT_ASKED


def keep(rows: list[Row], out: Path) -> Path:
    """Write the result file and return its path."""
    about = result_files.about("python -m benchmarks.zoo")
    about["versions"] |= {library: metadata.version(library) for library in LIBRARIES}
    content = {
        **about,
        "dtype": "float32",
        "layout": "accelerated: batch-last; masked and plain: contiguous",
        "density": DENSITY,
        "networks": [vars(row) for row in rows],
    }
    return result_files.keep(out, "zoo", content)


def main(
    only: Annotated[str, typer.Option(help="Networks with this in their name; keep nothing.")] = "",
    seconds: Annotated[float, typer.Option(help="For a step's contenders; 0: no times.")] = SECONDS,
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
) -> None:
    """Examine, print and keep."""
    nets = [net for title, net in NETS.items() if only in title]
    told = Console(stderr=True)
    rows = [examined(net, seconds) for net in track(nets, "networks", console=told)]
    Console(width=None if sys.stdout.isatty() else PAGE).print(table(rows))
    if not only:
        print(f"kept in {keep(rows, out)}")


if __name__ == "__main__":
    typer.run(main)
