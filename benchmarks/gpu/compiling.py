"""Compile what the sections launch, on all cores at once, before anything runs.

python -m benchmarks.gpu.compiling                             for an H100 that is not there
python -m benchmarks.gpu.compiling --here --sections SECTIONS  for the GPU that is

Every use is a dry launch: Triton's cache then holds what the GPU asks for. For an H100 (and H200,
the same chip) the kernels are kept, with what they take, in benchmarks/results/compiled-h100.json.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import torch
import typer
from gemkern.kernels.gpu.compiled import read_cuda
from gemkern.kernels.gpu.dry import H100, H100_TARGET, compile_launcher, dry_launches
from gemkern.kernels.gpu.launching import Chip
from triton.backends.compiler import GPUTarget

from benchmarks import result_files
from benchmarks.gpu.compilations import compilations
from benchmarks.gpu.run import chosen
from benchmarks.gpu.uses import Use, dry_bench, served_by_gpu, uses
from gemkern.report.environment import versions

NAME = "compiled-h100"
# Between users, so that a kernel is a line of the file.
AND = "; "
VERSIONS = ("python", "torch", "triton")


class Kernel(NamedTuple):
    """What a kernel takes, as in `gemkern.kernels.gpu.compiled.Compiled`, and whose it is.

    Attributes:
        users: "section: operator" of each job that launches it.
    """

    registers: int
    shared: int
    spilled: int
    flushes: bool
    users: tuple[str, ...]

    def serves(self, section: str) -> bool:
        """Return whether `section` launches it."""
        return any(user.startswith(f"{section}: ") for user in self.users)


class Job(NamedTuple):
    """Uses of one section and operator, by their numbers: what launches does not travel."""

    name: str
    numbers: tuple[int, ...]


class Part(NamedTuple):
    """What a process has compiled of one section's uses.

    Attributes:
        kernels: by what they are, with what they take; empty where the chip is there.
        compiled: how many were not in Triton's cache, and the seconds that they took.
        failed: uses whose launcher raised, and what.
    """

    kernels: dict[str, Kernel]
    compiled: int
    seconds: float
    failed: list[str]


def compile_uses(
    sections: Sequence[str], processes: int, target: GPUTarget, chip: Chip, there: bool
) -> Iterator[Part]:
    """Compile what `sections` launch on `chip`, which is `there` or not."""
    # Not by fork: a child of a process with OpenMP's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        chosen_jobs = jobs(sections)
        of = ([one] * len(chosen_jobs) for one in (target, chip, there))
        yield from pool.map(compile_part, chosen_jobs, *of)


def compile_part(job: Job, target: GPUTarget, chip: Chip, there: bool) -> Part:
    """Launch the uses of a job dry.

    Where the chip is `there`, what launches is compiled too; else what each kernel takes is read.
    """
    torch.set_num_threads(1)
    failed: list[str] = []
    with dry_launches(target, chip) as kernels, served_by_gpu(), compilations() as compiled:
        for use in (all_uses()[number] for number in job.numbers):
            try:
                use.launch()
            except Exception as error:
                failed.append(f"{use.section}, {use.name}: {type(error).__name__}: {error}")
    taken = {}
    if there:
        failed += _compile_launchers(kernels.values())
    else:
        taken = {name: _taken(binary, job) for name, binary in kernels.items()}
    return Part(taken, compiled.kernels, compiled.seconds, failed)


@cache
def all_uses() -> tuple[Use, ...]:
    return tuple(uses(dry_bench()))


def together(parts: Sequence[Part]) -> dict[str, Kernel]:
    """Return the kernels of all parts, each with all of its users."""
    kernels: dict[str, Kernel] = {}
    for name, kernel in (pair for part in parts for pair in part.kernels.items()):
        users = {*kernel.users, *(kernels[name].users if name in kernels else ())}
        kernels[name] = kernel._replace(users=tuple(sorted(users)))
    return dict(sorted(kernels.items()))


def kept(folder: Path = result_files.RESULTS) -> dict[str, Kernel]:
    """Return the kernels of the result file."""
    rows = result_files.kept(NAME, folder)["kernels"]
    return {name: Kernel(*row[:-1], tuple(row[-1].split(AND))) for name, row in rows.items()}


def jobs(sections: Sequence[str]) -> list[Job]:
    """Return the jobs of `sections`, those of most uses first."""
    found: dict[str, list[int]] = {}
    for number, use in enumerate(all_uses()):
        if use.section in sections:
            found.setdefault(f"{use.section}: {use.name.split()[0]}", []).append(number)
    made = (Job(name, tuple(numbers)) for name, numbers in found.items())
    return sorted(made, key=lambda job: len(job.numbers), reverse=True)


def _compile_launchers(kernels: Iterable[Any]) -> list[str]:
    try:
        for kernel in kernels:
            compile_launcher(kernel)
    except Exception as error:
        return [f"launchers are compiled as they are needed: {type(error).__name__}: {error}"]
    return []


def _taken(binary: Any, job: Job) -> Kernel:
    of = read_cuda(binary)
    return Kernel(of.registers, of.shared, of.spilled, of.flushes, (job.name,))


def here() -> tuple[GPUTarget, Chip]:
    """Return what to compile for on this machine's GPU."""
    of = torch.cuda.get_device_properties(0)
    shared = getattr(of, "shared_memory_per_block_optin", H100.shared)
    return GPUTarget("cuda", 10 * of.major + of.minor, 32), Chip(
        processors=of.multi_processor_count, shared=shared, rounds=True
    )


def main(
    on_this_gpu: Annotated[bool, typer.Option("--here", help="For the GPU that is there.")] = False,
    sections: Annotated[str, typer.Option(help="Names joined by commas; all if empty.")] = "",
    processes: Annotated[int, typer.Option(help="How many compile at once.")] = os.cpu_count() or 1,
) -> None:
    """Compile what a GPU is asked to run."""
    began = time.perf_counter()
    target, chip = here() if on_this_gpu else (H100_TARGET, H100)
    keep = not on_this_gpu and not sections
    with TemporaryDirectory() as empty:
        if keep:
            # What is kept of the time is that of a machine that has compiled nothing yet.
            os.environ["TRITON_CACHE_DIR"] = empty
        parts = list(compile_uses(chosen(sections), processes, target, chip, on_this_gpu))
    count, work = sum(part.compiled for part in parts), sum(part.seconds for part in parts)
    seconds = time.perf_counter() - began
    typer.echo(
        f"{count} kernels compiled for {target.backend}-{target.arch} in {work:.0f} s of work, "
        f"{seconds:.0f} s by {processes} processes"
    )
    for failure in (failure for part in parts for failure in part.failed):
        typer.echo(failure, err=True)
    if any(part.failed for part in parts):
        raise typer.Exit(1)
    if keep:
        content = {
            "command": "python -m benchmarks.gpu.compiling",
            "versions": {name: versions()[name] for name in VERSIONS},
            "compiled": count,
            "work_s": round(work),
            "columns": Kernel._fields,
            "kernels": {
                name: [*kernel[:-1], AND.join(kernel.users)]
                for name, kernel in together(parts).items()
            },
        }
        typer.echo(f"kept in {result_files.keep(result_files.RESULTS, NAME, content)}")


if __name__ == "__main__":
    typer.run(main)
