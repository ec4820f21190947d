"""Compiling kernels for chips that are not there, and reading what came out.

Nothing here runs a kernel: registers, shared memory, spills and instructions are those that the
assembler of each target reports. Not possible in a process that interprets kernels
(TRITON_INTERPRET=1).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import triton
from gemkern.kernels.gpu.variants import Variant
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Files of this folder that hold kernels.
MODULES = ("threshold", "score_step", "select_kth", "bits", "popup")


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes:
        shared_limit: bytes of shared memory that one program may have.
        matrix: instructions that multiply matrices, one of which every matrix kernel must have.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    shared_limit: int
    matrix: tuple[str, ...]


TARGETS = (
    Target("cuda-80", "cuda", 80, 32, 163 * 1024, ("mma.sync",)),
    Target("cuda-90", "cuda", 90, 32, 227 * 1024, ("wgmma", "mma.sync")),
    Target("cuda-100", "cuda", 100, 32, 227 * 1024, ("tcgen05.mma", "mma.sync")),
    Target("hip-gfx942", "hip", "gfx942", 64, 64 * 1024, ("v_mfma",)),
)


@dataclass(frozen=True)
class Compiled:
    """One variant on one target: registers a thread, bytes of shared memory, bytes spilled.

    `wide` is the largest number of bytes that one global load moves, `matrix` the matrix
    instructions that are used.
    """

    variant: str
    target: str
    registers: int
    shared: int
    spilled: int
    wide: int
    matrix: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self)


def all_variants() -> Iterator[Variant]:
    """Yield every kernel with every configuration that a launcher can choose."""
    for module in MODULES:
        yield from import_module(f"gemkern.kernels.gpu.{module}").variants()


def compile_variant(variant: Variant, target: Target) -> Compiled:
    """Compile `variant` for `target` and read its resources.

    Raises:
        triton.CompilationError: the kernel is not valid there.
    """
    names = variant.kernel.arg_names
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    pointers = [i for i, name in enumerate(names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    binary = triton.compile(
        source,
        target=GPUTarget(target.backend, target.arch, target.warp),
        options={
            "num_warps": variant.threads // target.warp or variant.warps,
            "num_stages": variant.stages,
            **variant.options,
        },
    )
    read = _read_cuda if target.backend == "cuda" else _read_hip
    registers, spilled, wide, text = read(binary)
    return Compiled(
        variant=variant.name,
        target=target.name,
        registers=registers,
        shared=binary.metadata.shared,
        spilled=spilled,
        wide=wide,
        matrix=tuple(word for word in target.matrix if word in text),
    )


def _read_cuda(binary: Any) -> tuple[int, int, int, str]:
    usage = _resource_usage(binary.asm["cubin"])
    ptx = binary.asm["ptx"]
    loads = re.findall(r"(?:ld\.global|cp\.async\.c[ag]\.shared\.global)\S*.*", ptx)
    return (
        int(_number(r"REG:(\d+)", usage)),
        int(_number(r"STACK:(\d+)", usage)) + int(_number(r"LOCAL:(\d+)", usage)),
        max((_width(load) for load in loads), default=0),
        ptx,
    )


def _width(load: str) -> int:
    """Return how many bytes a PTX load from global memory moves."""
    if load.startswith("cp.async"):
        return int(_number(r"\], (0x[0-9a-f]+|\d+)", load), 0)
    count = int(_number(r"\.v(\d)", load, "1"))
    return count * int(_number(r"\.[bfus](\d+)", load)) // 8


def _read_hip(binary: Any) -> tuple[int, int, int, str]:
    text = binary.asm["amdgcn"]
    widths = re.findall(r"(?:global|buffer|flat)_load_(?:dword|b)(x?\d*)", text)
    lanes = [int(width.lstrip("x") or 1) for width in widths]
    return (
        int(_number(r"\.vgpr_count:\s+(\d+)", text)),
        4 * int(_number(r"\.vgpr_spill_count:\s+(\d+)", text)),
        max((4 * lane if lane <= 4 else lane // 8 for lane in lanes), default=0),
        text,
    )


def _resource_usage(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return shown.stdout


def _number(pattern: str, text: str, otherwise: str = "0") -> str:
    found = re.search(pattern, text)
    return found[1] if found else otherwise
