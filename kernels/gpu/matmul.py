"""What every matrix product shares: tile sizes as data, the choice among them, tiles in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tiles a column of the output is walked in, so that neighbours find their operands in the L2 cache.
GROUP = 8
# In elements: strides that are multiples of it let 16 bytes of a 16-bit operand be loaded at once.
ALIGNMENT = 8
# A part of a sum that is split has at least this many terms, and there are at most so many parts.
LEAST_DEPTH = 512
MOST_SPLITS = 32


@dataclass(frozen=True)
class Config:
    """Tile sizes of a product [M, K] @ [K, N], and how its programs are launched."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}

    def tiles(self, M: int, N: int) -> int:
        """Return how many programs cover an output of M by N."""
        return triton.cdiv(M, self.block_m) * triton.cdiv(N, self.block_n)

    def staged(self, row_bytes: int, column_bytes: int, shared: int) -> int:
        """Return how many stages of operand tiles fit into `shared` bytes.

        Args:
            row_bytes, column_bytes: of all operands per element of the left tile, of the right one.
        """
        left = self.block_k * self.block_m * row_bytes
        right = self.block_k * self.block_n * column_bytes
        # What goes through registers is kept for a stage less.
        return max(1, min(self.stages, (shared + left) // (left + right)))


def choose(configs: Sequence[Config], M: int, N: int, processors: int) -> Config:
    """Return the first config, largest first, with tiles for all processors; else the last.

    A tile more than twice as long or as wide as the output is passed over.
    """
    for config in configs:
        fits = config.block_m < 2 * M and config.block_n < 2 * N
        if fits and config.tiles(M, N) >= processors:
            return config
    return configs[-1]


def steps_and_splits(config: Config, M: int, N: int, K: int, processors: int) -> tuple[int, int]:
    """Return into how many parts the sum over K is split, and the steps of BLOCK_K in each.

    Parts are added in a fixed order: the result depends on the shapes and the device alone.
    """
    steps = triton.cdiv(K, config.block_k)
    wanted = min(processors // max(1, config.tiles(M, N)), K // LEAST_DEPTH, MOST_SPLITS)
    each = triton.cdiv(steps, max(1, wanted))
    return each, max(1, triton.cdiv(steps, max(1, each)))


def precision(dtype: torch.dtype) -> str:
    """Return Triton's input_precision for a product, following PyTorch's setting for float32."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def aligned(*operands: Tensor) -> bool:
    """Return whether the rows of every 2-d operand lie each in one run, on multiples of 8."""
    return all(
        tensor.stride(1) == 1
        and tensor.stride(0) % ALIGNMENT == 0
        and tensor.shape[1] % ALIGNMENT == 0
        for tensor in operands
    )


@triton.jit
def grouped(program, rows, columns, GROUP: tl.constexpr):
    """Return the tile row and column of `program`: GROUP rows at a time, column by column."""
    width = GROUP * columns
    first = program // width * GROUP
    height = tl.minimum(rows - first, GROUP)
    return first + program % width % height, program % width // height


@triton.jit
def multiple(number, ALIGNED: tl.constexpr):
    """Return `number`; that it is a multiple of 8 if ALIGNED, the compiler sees here."""
    if ALIGNED:
        number = number // 8 * 8
    return number


@triton.jit
def places(rows, columns, stride_row, stride_column, RUNS: tl.constexpr):
    """Return offsets [rows, columns], in int64: tensors may have more than 2^31 elements.

    RUNS names what lies in one run of memory, the others on multiples of 8: "rows", "columns", or
    "none" where nothing is known.
    """
    down = wide(rows)[:, None]
    across = wide(columns)[None, :]
    if RUNS == "rows":
        offsets = down * multiple(stride_row, True) + across
    elif RUNS == "columns":
        offsets = down + across * multiple(stride_column, True)
    else:
        offsets = down * stride_row + across * stride_column
    return offsets


@triton.jit
def kept_exact(tile, PRECISION: tl.constexpr):
    """Return `tile` as an operand of a product that Triton does not round where it must not.

    For compute capability 10 Triton 3.7 multiplies float32 in TF32, "ieee" or not, where it takes
    an operand for a narrower one made wide: where any load behind it is narrower, as the mask's is.
    It does not look behind a reduction.
    """
    if PRECISION == "ieee" and tile.dtype == tl.float32:
        tile = tl.sum(tile[:, :, None], axis=2)
    return tile


@triton.jit
def wide(number):
    """Return `number` in int64."""
    return tl.cast(number, tl.int64)
