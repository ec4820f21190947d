"""Ask a GPU what it can say of these kernels, inside a budget of seconds.

python -m benchmarks.gpu                         on a GPU: tables, benchmarks/results/gpu-NAME.json
python -m benchmarks.gpu --sections first        what fits one call: masks, scores, whole steps
python -m benchmarks.gpu --resume                go on with the rows that are not there
python -m benchmarks.gpu --out DIR --rehearse    walk every section on tiny shapes, without a GPU

First all kernels are compiled, on all cores. Then rows are measured in a process of their own: one
that a fault or a failed capture has spoilt, or that hangs, makes room for another.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console

from benchmarks import result_files
from gemkern.errors import GemkernError

REHEARSAL = "gpu-rehearsal"
# How a process ends that trusts the device no more.
LOST = 75
# Seconds that a process takes to import everything and to open the device.
START = 15.0
# Seconds without a word in the result file after which a process counts as hung.
HUNG = 240.0


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of the result file.")] = None,
    seconds: Annotated[float, typer.Option(help="Budget; its last row is finished.")] = 520.0,
    sections: Annotated[
        str, typer.Option(help="Names joined by commas, first, or second; all if empty.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what was measured.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Tiny, on the CPU.")] = False,
    commit: Annotated[str, typer.Option(help="Where no repository can say it.")] = "",
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, most important first, and keep what was measured."""
    started = time.monotonic()
    if not rehearse and not torch.cuda.is_available():
        refuse("There is no GPU here: run on a machine with one, or pass --rehearse.")
    if rehearse and out is None:
        refuse("A rehearsal measures nothing that could be kept: give a folder with --out.")
    if not rehearse and not (commit or result_files.commit()):
        refuse("No repository says which commit this is: give it with --commit.")
    if rehearse:
        # Read when a kernel is defined, so before the sections are imported.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Nothing may quietly be served by another backend.
    os.environ["GEMKERN_BACKEND"] = "gpu"
    folder = (out or result_files.RESULTS).resolve()
    name = REHEARSAL if rehearse else result_files.named("gpu", result_files.used("cuda"))
    path = folder / f"{name}.json"
    if rehearse or worker:
        measure(path, seconds, sections, resume=resume, rehearse=rehearse, commit=commit)
        return
    options = ["--worker", "--out", str(folder), "--sections", sections, "--commit", commit]
    if resume:
        options.append("--resume")
    # What cannot be measured is refused before time is spent on it.
    begin(path, sections, resume=resume, rehearse=False, commit=commit)
    compile_first(sections)
    raise typer.Exit(supervise(path, options, started + seconds))


def measure(
    path: Path, seconds: float, sections: str, *, resume: bool, rehearse: bool, commit: str
) -> None:
    """Measure in this process, which ends with LOST where another has to go on."""
    from benchmarks.gpu import run
    from benchmarks.gpu.account import planned_table, spent_table
    from benchmarks.gpu.bench import DeviceLost

    wanted, result = begin(path, sections, resume=resume, rehearse=rehearse, commit=commit)
    bench = (run.rehearsed if rehearse else run.on_gpu)(result, seconds)
    console = Console(width=180, highlight=False)
    try:
        run.measure(bench, wanted, console, path)
    except DeviceLost as lost:
        console.print(f"The device is lost to this process ({lost}); another goes on.")
        sys.stdout.flush()
        # What is left of the device may hang at a regular end.
        os._exit(LOST)
    console.print(planned_table(result) if rehearse else spent_table(result))


def begin(
    path: Path, sections: str, *, resume: bool, rehearse: bool, commit: str
) -> tuple[list[str], Any]:
    """Return the sections by name, and the result that they go into."""
    from benchmarks.gpu import run
    from benchmarks.gpu.result import Result, about

    try:
        wanted = run.chosen(sections)
        result = Result(path, about(commit, rehearse))
        if resume:
            result.resume(result_files.RESULTS / path.name)
    except (GemkernError, LookupError) as error:
        refuse(str(error))
    return wanted, result


def compile_first(sections: str) -> None:
    """Compile what the sections launch, in processes that end before the device is needed."""
    command = [sys.executable, "-m", "benchmarks.gpu.compiling", "--here", "--sections", sections]
    process = subprocess.Popen(command, cwd=result_files.ROOT, start_new_session=True)
    try:
        process.wait(HUNG)
    except subprocess.TimeoutExpired:
        typer.echo("Kernels are compiled as they are launched: not all were ready in time.")
    finally:
        # Its own processes too, which would take the host's time from what is measured.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def supervise(path: Path, options: Sequence[str], deadline: float) -> int:
    """Run processes that measure, one after the other, until one ends well; return its status.

    Each goes on where the one before was lost: its row stands as failed, and is not tried again.
    """
    resumed: list[str] = []
    while True:
        begun = _written(path)
        # What a process needs to start is not its own to spend.
        left = str(max(0.0, deadline - time.monotonic() - START))
        command = [sys.executable, "-m", "benchmarks.gpu", *options, *resumed, "--seconds", left]
        status = _end_of(subprocess.Popen(command, cwd=result_files.ROOT), path)
        # Below 0: by a signal, as after a fault or when it hung.
        if status != LOST and status >= 0:
            return status
        if time.monotonic() > deadline or _written(path) == begun:
            return 1
        typer.echo(f"A process ended with {status}; another goes on.")
        resumed = [] if "--resume" in options else ["--resume"]


def _end_of(process: subprocess.Popen[bytes], path: Path) -> int:
    """Wait for the end of a process that writes to `path` before and after each row."""
    heard, written = time.monotonic(), _written(path)
    while True:
        try:
            return process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            if (now := _written(path)) != written:
                heard, written = time.monotonic(), now
            if time.monotonic() - heard > HUNG:
                process.kill()
                return process.wait()


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def refuse(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
