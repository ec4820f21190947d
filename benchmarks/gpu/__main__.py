"""Ask a GPU what it can say of these kernels, inside a budget of seconds.

python -m benchmarks.gpu                         on a GPU: tables, benchmarks/results/gpu-NAME.json
python -m benchmarks.gpu --resume                go on with the rows that are not there
python -m benchmarks.gpu --out DIR --rehearse    walk every section on tiny shapes, without a GPU
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console

from benchmarks import result_files
from gemkern.errors import GemkernError

REHEARSAL = "gpu-rehearsal"


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of the result file.")] = None,
    seconds: Annotated[float, typer.Option(help="Budget; its last row is finished.")] = 540.0,
    sections: Annotated[str, typer.Option(help="Names joined by commas; all if empty.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what was measured.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Tiny, on the CPU.")] = False,
    commit: Annotated[str, typer.Option(help="Where no repository can say it.")] = "",
) -> None:
    """Measure, most important first, and keep what was measured."""
    if not rehearse and not torch.cuda.is_available():
        refuse("There is no GPU here: run on a machine with one, or pass --rehearse.")
    if rehearse and out is None:
        refuse("A rehearsal measures nothing that could be kept: give a folder with --out.")
    if rehearse:
        # Read when a kernel is defined, so before the sections are imported.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Nothing may quietly be served by another backend.
    os.environ["GEMKERN_BACKEND"] = "gpu"
    from benchmarks.gpu import run
    from benchmarks.gpu.bench import DeviceLost
    from benchmarks.gpu.result import Result, about

    out = out or result_files.RESULTS
    name = REHEARSAL if rehearse else result_files.named("gpu", result_files.used("cuda"))
    path = out / f"{name}.json"
    result = Result(path, about(commit, rehearse))
    chosen = sections.split(",") if sections else list(run.SECTIONS)
    if unknown := set(chosen) - set(run.SECTIONS):
        refuse(f"No section is called {', '.join(unknown)}: choose of {', '.join(run.SECTIONS)}.")
    if resume:
        try:
            result.resume()
        except GemkernError as error:
            refuse(str(error))
    bench = (run.rehearsed if rehearse else run.on_gpu)(result, seconds)
    console = Console(width=180, highlight=False)
    try:
        run.measure(bench, chosen, console, path)
    except DeviceLost as lost:
        console.print(f"The device is lost to this process ({lost}); another goes on.")
        again = ["--out", str(out), "--seconds", str(max(0.0, bench.left())), "--resume"]
        again += ["--sections", sections, "--commit", commit]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *again])


def refuse(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
