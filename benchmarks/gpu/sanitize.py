"""A small list of kernels to run under `compute-sanitizer`, which watches their memory.

The section runs `compute-sanitizer --tool memcheck python -m benchmarks.gpu.sanitize`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.correctness import MASKS, MODELS, cases, gpu_module, random_layers
from benchmarks.gpu.exactness import WrongResult, copied
from benchmarks.gpu.layers import PASSES, run
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import NotMeasured
from benchmarks.result_files import ROOT

SECTION = "sanitizer"
TOOL = "compute-sanitizer"
FOUND = 77
# What it says where a sandbox keeps it from the device.
UNSUPPORTED = "Device not supported"
SECONDS = 120
# As `Shapes.layers` and `Shapes.product`.
LAYERS = ((3, 4), (0, 5), (1,), (4, 2, 3, 3), (37, 29))
SIZE = (37, 48, 40, 6)


def plan(bench: Bench) -> Iterator[Row]:
    yield Row(_check, tool="memcheck")


def _check(bench: Bench, tool: str) -> Entry:
    if bench.rehearsal:
        raise NotMeasured("a CPU has no compute-sanitizer")
    if shutil.which(TOOL) is None:
        raise NotMeasured(f"{TOOL} is not on the PATH")
    command = [
        TOOL, "--tool", tool, f"--error-exitcode={FOUND}",
        sys.executable, "-m", "benchmarks.gpu.sanitize",
    ]  # fmt: skip
    limit = max(1.0, min(SECONDS, bench.left()))
    # A cache of memory would hide a store beyond a tensor in the next one.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # The tool's own child too, which would keep the device busy.
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        raise NotMeasured(f"no end after {limit:.0f} s; last: {said[-200:]!r}") from None
    if UNSUPPORTED in said:
        raise NotMeasured(f"{TOOL} does not serve this machine: {UNSUPPORTED}")
    if process.returncode:
        raise WrongResult(f"{TOOL} ended with {process.returncode}: {said[-1500:]}")
    return {"kernels": said.count("ran "), "report": said.strip().splitlines()[-1]}


def main() -> None:
    """Run every mask operator, and each product in its kernel, on tensors of odd sizes."""
    for operator, arguments in MASKS.items():
        kernel = getattr(gpu_module(operator), operator)
        for model in MODELS.values():
            layers = random_layers(LAYERS, "cuda", torch.bfloat16, *model)
            for of in arguments(layers):
                kernel(*copied(of))
        torch.cuda.synchronize()
        print("ran", operator)
    for operator in PASSES:
        for case in cases(*SIZE):
            if case.serves(operator):
                run(operator, "in-kernel", case.random("cuda", torch.bfloat16), case.geometry)
        torch.cuda.synchronize()
        print("ran", operator)


if __name__ == "__main__":
    main()
