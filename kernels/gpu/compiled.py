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
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import triton
from gemkern.kernels.gpu import masked_linear
from gemkern.kernels.gpu.variants import Variant
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Files of this folder that hold kernels, launched alike on every chip; masked_linear is one more.
MODULES = (
    "threshold",
    "score_step",
    "straight_through",
    "select_kth",
    "bits",
    "popup",
    "conv2d_images",
    "conv2d_filters",
    "depthwise_conv2d",
)
# Instructions that multiply matrices, by the whole of their names, which say how they round.
MATRIX = re.compile(r"\b(?:(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)\.[\w.:]+|v_s?mfmac?_\w+)")


# Instructions of PTX that take denormal numbers for 0; not the one by which the exponential of a
# float64 looks at the upper half of its argument, where that changes no comparison.
FLUSHING = re.compile(r"\b(?!abs\.ftz\.f32)[a-z]\S*\.ftz\b")


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes:
        shared_limit: bytes of shared memory that one program may have.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    shared_limit: int


TARGETS = (
    Target("cuda-80", "cuda", 80, 32, 163 * 1024),
    Target("cuda-90", "cuda", 90, 32, 227 * 1024),
    Target("cuda-100", "cuda", 100, 32, 227 * 1024),
    Target("hip-gfx942", "hip", "gfx942", 64, 64 * 1024),
)


class Compiled(NamedTuple):
    """What one variant takes on one target.

    Attributes:
        registers: of a thread.
        shared: bytes of shared memory.
        spilled: bytes of memory that a thread needs for want of registers.
        wide: the most bytes that one load from global memory moves.
        flushes: whether an instruction of PTX takes denormal numbers for 0 (FLUSHING).
        matrix: the names of its matrix instructions, sorted.
    """

    registers: int
    shared: int
    spilled: int
    wide: int
    flushes: bool
    matrix: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether no matrix instruction rounds float32 operands; only AMD's can leave them be."""
        return all(name.endswith("_f32") for name in self.matrix)


def variants_on(target: Target) -> Iterator[Variant]:
    """Yield every kernel with every configuration that a launcher can choose on `target`."""
    for module in MODULES:
        yield from import_module(f"gemkern.kernels.gpu.{module}").variants()
    # How many stages these have depends on the shared memory there is.
    yield from masked_linear.variants(target.shared_limit)


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
    return read_cuda(binary) if target.backend == "cuda" else _read_hip(binary)


def read_cuda(binary: Any) -> Compiled:
    """Read the resources of a kernel that is compiled for a chip of NVIDIA's."""
    usage = _resource_usage(binary.asm["cubin"])
    ptx = binary.asm["ptx"]
    loads = re.findall(r"(?:ld\.global|cp\.async\.c[ag]\.shared\.global)\S*.*", ptx)
    return Compiled(
        registers=int(_number(r"REG:(\d+)", usage)),
        shared=binary.metadata.shared,
        spilled=int(_number(r"STACK:(\d+)", usage)) + int(_number(r"LOCAL:(\d+)", usage)),
        wide=max((_width(load) for load in loads), default=0),
        flushes=bool(FLUSHING.search(ptx)),
        matrix=_matrix_instructions(ptx),
    )


def _width(load: str) -> int:
    """Return how many bytes a PTX load from global memory moves."""
    if load.startswith("cp.async"):
        return int(_number(r"\], (0x[0-9a-f]+|\d+)", load), 0)
    count = int(_number(r"\.v(\d)", load, "1"))
    return count * int(_number(r"\.[bfus](\d+)", load)) // 8


def _read_hip(binary: Any) -> Compiled:
    text = binary.asm["amdgcn"]
    widths = re.findall(r"(?:global|buffer|flat)_load_(?:dword|b)(x?\d*)", text)
    lanes = [int(width.lstrip("x") or 1) for width in widths]
    return Compiled(
        registers=int(_number(r"\.vgpr_count:\s+(\d+)", text)),
        shared=binary.metadata.shared,
        spilled=int(_number(r"\.private_segment_fixed_size:\s+(\d+)", text)),
        wide=max((4 * lane if lane <= 4 else lane // 8 for lane in lanes), default=0),
        # AMD's mode of denormals is a register, not a word of an instruction.
        flushes=False,
        matrix=_matrix_instructions(text),
    )


def _matrix_instructions(text: str) -> tuple[str, ...]:
    return tuple(sorted(set(MATRIX.findall(text))))


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
