"""Dry launches: all that a launch does but the launch itself, for a chip that is not there.

Launchers are called as they are in use, on tensors of the CPU or of no memory at all ("meta").
Triton takes their arguments for what they are, numbers that are 1 and multiples of 16 included, and
compiles exactly what it would compile there. Not possible in a process that interprets kernels
(TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import torch
import triton
from gemkern.kernels.gpu.launching import Chip, standing_in
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.jit import JITFunction

H100_TARGET = GPUTarget("cuda", 90, 32)
# What the driver says of an H100 or H200.
H100 = Chip(processors=132, shared=232_448, rounds=True)


class StandInDriver(DriverBase):
    """Triton's driver of a chip that is not there: it says what to compile for."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        # Triton keeps what it has compiled by this.
        return f"{self._target}, not there"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, ty: str) -> NoReturn:
        raise NotImplementedError("a chip that is not there has no launcher")

    def get_benchmarker(self) -> NoReturn:
        raise NotImplementedError("a chip that is not there measures nothing")


@contextmanager
def dry_launches(target: GPUTarget = H100_TARGET, chip: Chip = H100) -> Iterator[dict[str, Any]]:
    """Compile what the body launches, and run none of it; yield the kernels by what they are.

    Outputs of launches keep what was in their memory.
    """
    compiled: dict[str, Any] = {}
    run = JITFunction.run

    def warm_up(self: JITFunction, *arguments: Any, **options: Any) -> Any:
        kernel = run(self, *arguments, **{**options, "warmup": True})
        compiled[described(kernel)] = kernel
        return kernel

    with (
        mock.patch.object(triton.runtime.driver, "_active", StandInDriver(target)),
        mock.patch.object(JITFunction, "run", warm_up),
        standing_in(chip),
    ):
        yield compiled


def compile_launcher(kernel: Any) -> None:
    """Compile the C code by which Triton before 3.7 launches a kernel; it needs CUDA's driver."""
    from triton.backends.nvidia import driver

    if hasattr(driver, "make_launcher"):
        driver.CudaLauncher(kernel.src, kernel.metadata)


def described(kernel: Any) -> str:
    """Return a compiled kernel's name, the types of its arguments, and what is compiled into it.

    "/16" follows the type of what is a multiple of 16.
    """
    source = kernel.src
    names = list(source.signature)
    constants = {names[place]: value for (place,), value in source.constants.items()}
    multiples = {names[place] for (place,), known in source.attrs.items() if known}
    types = [
        f"{name.removesuffix('_ptr')}={kind}{'/16' if name in multiples else ''}"
        for name, kind in source.signature.items()
        if kind != "constexpr"
    ]
    values = [f"{name}={value}" for name, value in constants.items() if value is not None]
    metadata = kernel.metadata
    launch = f"{metadata.num_warps}w {metadata.num_stages}s"
    return f"{kernel.name}({', '.join([*types, *values, launch])})"
