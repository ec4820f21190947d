"""Peak memory of a training step on the CPU: how far it raises the resident memory of a process.

python -m benchmarks.cpu_memory CASE CONTENDER THREADS      what the parent starts; CASE is JSON

Each contender has a fresh process, because what one has left in the allocator another could use.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cpu_networks import Case, Trainer, batch_of

PROCESS = Path("/proc/self")
ROOT = Path(__file__).resolve().parent.parent
RESET_PEAK = "5"
# Images of the step that goes before: it loads code and makes momentum buffers.
FEW = 16
STEPS = 2
KIBIBYTE = 1024


@functools.cache
def peak_bytes(case: Case, contender: str) -> int | None:
    """Return the bytes that steps add to a process with the model, the data and the optimiser.

    That is the highest resident memory during two steps less the resident memory before them.
    None where the system does not tell: only Linux does.
    """
    if not (PROCESS / "clear_refs").exists():
        return None
    arguments = json.dumps(asdict(case)), contender, str(torch.get_num_threads())
    command = [sys.executable, "-m", "benchmarks.cpu_memory", *arguments]
    child = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return int(child.stdout)


def rise(case: Case, contender: str) -> int:
    """Return in bytes how far two steps raise the resident memory of this process."""
    trainer = Trainer(case, contender)
    x, labels = batch_of(case)
    trainer.on(x[:FEW], labels[:FEW])()
    step = trainer.on(x, labels)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    before = _resident("VmRSS")
    for _ in range(STEPS):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in (PROCESS / "status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return KIBIBYTE * int(value.split()[0])
    raise AssertionError(f"/proc/self/status has no {field}")


def main() -> None:
    """Print the bytes."""
    case, contender, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.set_flush_denormal(True)
    print(rise(Case(**json.loads(case)), contender))


if __name__ == "__main__":
    main()
