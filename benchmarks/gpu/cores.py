"""The CPU beside the GPU: how sparse training steps scale with its cores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import NotMeasured
from benchmarks.result_files import ROOT, kept

SECTION = "cpu cores"
THREADS = (16, 8, 4, 2, 1)
# Of a row, which finishes what it has begun; of a step's contenders; what a row takes, and may.
MINUTES, STEP_SECONDS, EXPECTED, LIMIT = 0.25, 2.0, 60.0, 200.0


def plan(bench: Bench) -> Iterator[Row]:
    for threads in THREADS:
        yield Row(_measure, threads=threads)


def _measure(bench: Bench, threads: int) -> Entry:
    if bench.rehearsal:
        raise NotMeasured("a rehearsal leaves the CPU's cores alone")
    if threads > (os.cpu_count() or 1):
        raise NotMeasured(f"this machine has {os.cpu_count()} cores")
    if bench.left() < EXPECTED:
        raise NotMeasured(f"{bench.left():.0f} s are too few")
    limit = min(LIMIT, bench.left() + EXPECTED)
    # Its kernels are Numba's, and its threads its own.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GEMKERN_BACKEND": "auto"}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "benchmarks.cpu", "--out", folder,
            "--minutes", str(MINUTES), "--step-seconds", str(STEP_SECONDS),
        ]  # fmt: skip
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment, check=True, timeout=limit, capture_output=True
            )
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"no end after {limit:.0f} s") from None
        (path,) = Path(folder).glob("cpu-*.json")
        found = kept(path.stem, path.parent)
    return {"dtype": found["dtype"], "layout": found["layout"], "steps": found["steps"]}
