"""The faults, by room."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault
from benchmarks.mutants.faults import (
    data_and_files,
    experiments,
    kernels_cpu,
    kernels_gpu,
    methods,
    nn,
    ops,
    optim,
    reference,
    schedules,
    tickets,
)

ROOMS: dict[str, tuple[Fault, ...]] = {
    "kernels for CPUs": kernels_cpu.FAULTS,
    "kernels for GPUs": kernels_gpu.FAULTS,
    "reference kernels": reference.FAULTS,
    "operators and gradients": ops.FAULTS,
    "layers and activations": nn.FAULTS,
    "optimisers": optim.FAULTS,
    "schedules": schedules.FAULTS,
    "methods": methods.FAULTS,
    "tickets and their files": tickets.FAULTS,
    "data and other files": data_and_files.FAULTS,
    "training and experiments": experiments.FAULTS,
}
