"""A small list of kernels to run under `compute-sanitizer`, which watches their memory.

The section runs this module as `compute-sanitizer --tool memcheck python -m benchmarks.gpu.sanitize`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.correctness import MASKS, MODELS, cases, gpu_module, random_model
from benchmarks.gpu.exactness import WrongResult, copied
from benchmarks.gpu.layers import PASSES, run
from benchmarks.gpu.result import ROOT
from benchmarks.gpu.timing import NotMeasured

SECTION = "sanitizer"
TOOL = "compute-sanitizer"
FOUND = 77
SECONDS = 120
SIZE = (37, 48, 40, 6)


def plan(bench: Bench) -> Iterator[Row]:
    yield Row("memcheck", lambda: _memcheck(bench))


def _memcheck(bench: Bench) -> dict[str, Any]:
    if bench.rehearsal:
        raise NotMeasured("a CPU has no compute-sanitizer")
    if shutil.which(TOOL) is None:
        raise NotMeasured(f"{TOOL} is not on the PATH")
    command = [
        TOOL, "--tool", "memcheck", f"--error-exitcode={FOUND}",
        sys.executable, "-m", "benchmarks.gpu.sanitize",
    ]  # fmt: skip
    limit = max(1.0, min(SECONDS, bench.left()))
    # A cache of memory would hide a store beyond a tensor in the next one.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired as late:
        seen = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        raise NotMeasured(f"no end after {limit:.0f} s; last: {seen[-200:]!r}") from None
    if done.returncode:
        raise WrongResult(f"{TOOL} ended with {done.returncode}: {done.stdout[-1500:]}")
    return {"kernels": done.stdout.count("ran "), "report": done.stdout.strip().splitlines()[-1]}


def main() -> None:
    """Run every mask operator, and each product in its kernel, on tensors of odd sizes."""
    for operator, arguments in MASKS.items():
        kernel = getattr(gpu_module(operator), operator)
        for model in MODELS.values():
            for of in arguments(random_model("cuda", *model)):
                kernel(*copied(of))
        torch.cuda.synchronize()
        print("ran", operator)
    for operator in PASSES:
        for case in cases(*SIZE):
            if bool(case.geometry) == ("conv2d" in operator):
                run(operator, "in-kernel", case.random("cuda", torch.bfloat16), case.geometry)
        torch.cuda.synchronize()
        print("ran", operator)


if __name__ == "__main__":
    main()
