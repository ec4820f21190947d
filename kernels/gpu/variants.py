"""Kernels with the constants that a launcher can choose: what is compiled without a device.

Every kernel file of this folder ends in `variants()`, which yields all of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import triton

Kind = Literal["elementwise", "matmul", "exact", "other"]


@dataclass(frozen=True)
class Variant:
    """One kernel, ready to compile.

    Attributes:
        kernel: the `@triton.jit` function.
        signature: Triton's type of each run-time argument ("*fp32", "i32"); the others are
            constants. Pointers count as multiples of 16 bytes, as they are for PyTorch's tensors.
        constants: the value of each `tl.constexpr`, and None for absent pointers.
        kind: "elementwise" has to load 16 bytes at a time, "matmul" to use matrix instructions;
            "exact" is a product of float32, which no instruction may round.
        threads: of a program; 0 where `warps` says it, whatever the size of a warp.
        warps, stages: as launched.
        options: other launch options, such as enable_fp_fusion.
    """

    kernel: triton.JITFunction
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    kind: Kind
    threads: int = 0
    warps: int = 4
    stages: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel and what sets this variant apart, in a line.

        Left out: tables of int64, absent operands, and strides of 1, which follow from the rest.
        """
        pointers = {
            name.removesuffix("_ptr"): kind[1:]
            for name, kind in self.signature.items()
            if kind.startswith("*") and kind != "*i64"
        }
        settings = {
            name: value
            for name, value in self.constants.items()
            if value is not None and not name.startswith("stride_")
        }
        launch = {"threads": self.threads} if self.threads else {"warps": self.warps}
        parts = {**pointers, **settings, **launch, "stages": self.stages}
        shown = ", ".join(f"{name}={value}" for name, value in parts.items())
        return f"{self.kernel.fn.__name__}({shown})"

    @property
    def config(self) -> str:
        """The sizes of its tile, its warps or threads, and its stages: "128x64x32 8w 2s"."""
        sizes = [self.constants.get(f"BLOCK_{axis}") for axis in "MNK"]
        tile = "x".join(str(size) for size in sizes if size) or str(self.constants.get("BLOCK", 1))
        launch = f"{self.threads}t" if self.threads else f"{self.warps}w"
        return f"{tile} {launch} {self.stages}s"
