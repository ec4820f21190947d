"""Kernels with the constants that a launcher can choose: what is compiled without a device.

Every kernel file of this folder ends in `variants()`, which yields all of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import triton

Kind = Literal["elementwise", "matmul", "other"]


@dataclass(frozen=True)
class Variant:
    """One kernel, ready to compile.

    Attributes:
        kernel: the `@triton.jit` function.
        signature: Triton's type of each run-time argument ("*fp32", "i32"); the others are
            constants. Pointers count as multiples of 16 bytes, as they are for PyTorch's tensors.
        constants: the value of each `tl.constexpr`, and None for absent pointers.
        kind: "elementwise" has to load 16 bytes at a time, "matmul" to use matrix instructions.
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
        """The kernel and what sets this variant apart, in a line."""
        settings = ", ".join(f"{key}={value}" for key, value in self.constants.items())
        return f"{self.kernel.fn.__name__}({settings}, warps={self.warps}, stages={self.stages})"
