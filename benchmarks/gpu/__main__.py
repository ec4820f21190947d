"""Ask a GPU what it can say of these kernels, inside a budget of seconds.

python -m benchmarks.gpu --out DIR               on a GPU: DIR/gpu.json, and tables
python -m benchmarks.gpu --out DIR --resume      go on with the rows that did not fit
python -m benchmarks.gpu --out DIR --rehearse    walk every section on tiny shapes, without a GPU
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

NAME = "gpu.json"
WIDTH = 180


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")],
    seconds: Annotated[float, typer.Option(help="Budget; the row at its end is finished.")] = 540.0,
    sections: Annotated[str, typer.Option(help="Names, joined by commas; all if empty.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that are there.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Tiny, on the CPU.")] = False,
    commit: Annotated[str | None, typer.Option(help="Where no repository can say it.")] = None,
) -> None:
    """Measure, most important first, and keep what was measured."""
    if not rehearse and not torch.cuda.is_available():
        typer.echo("There is no GPU here: run on a machine with one, or pass --rehearse.", err=True)
        raise typer.Exit(1)
    began = time.monotonic()
    if rehearse:
        # Read when a kernel is defined: before the sections are imported.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Nothing may quietly be served by another backend.
    os.environ["GEMKERN_BACKEND"] = "gpu"
    from benchmarks.gpu.bench import DeviceLost
    from benchmarks.gpu.run import measure

    try:
        measure(out / NAME, seconds, sections, resume, rehearse, commit, console())
    except DeviceLost as lost:
        left = max(0.0, seconds - (time.monotonic() - began))
        console().print(f"The device is lost to this process ({lost}); another goes on.")
        again = ["--out", str(out), "--seconds", str(left), "--sections", sections, "--resume"]
        again += ["--commit", commit] if commit else []
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *again])


def console() -> Console:
    return Console(width=WIDTH, highlight=False)


if __name__ == "__main__":
    typer.run(main)
