"""What the machine can do at most: copies on the device, and large matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.result import Result
from benchmarks.gpu.timing import Work

SECTION = "ceilings"
LARGEST_COPY = "copy 1 GB"
# The dtype of a product, and PyTorch's precision of float32 ones.
PRODUCTS = {
    "bf16": (torch.bfloat16, "highest"),
    "TF32": (torch.float32, "high"),
    "IEEE float32": (torch.float32, "highest"),
}


def plan(bench: Bench) -> Iterator[Row]:
    for name, size in bench.shapes.copies.items():
        yield Row(f"copy {name}", lambda size=size: _copy(bench, size), {"bytes": 2 * size})
    for name in PRODUCTS:
        yield Row(f"matmul {bench.shapes.matmul} {name}", lambda name=name: _product(bench, name))


def bandwidth(result: Result) -> float | None:
    """Return the bytes a second of the largest copy, read and written; None if unmeasured."""
    return result.find(SECTION, LARGEST_COPY).get("bytes_per_s")


def share_of_copy(result: Result, bytes_moved: int, microseconds: float) -> float | None:
    """Return the bandwidth of something as a fraction of the largest copy's."""
    copy = bandwidth(result)
    return copy and bytes_moved / (1e-6 * microseconds) / copy


def _copy(bench: Bench, size: int) -> dict[str, Any]:
    # Random bits: a copy of one number over and over can be faster.
    source = torch.randint(256, (size,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    raced = bench.clock.race({"copy": Work(lambda: target.copy_(source))}, cold=True)
    seconds = 1e-6 * raced["times"]["copy"]["median_us"]
    return {**raced, "bytes_per_s": 2 * size / seconds}


def _product(bench: Bench, name: str) -> dict[str, Any]:
    dtype, precision = PRODUCTS[name]
    n = bench.shapes.matmul
    a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
    torch.set_float32_matmul_precision(precision)
    try:
        raced = bench.clock.race({"matmul": Work(lambda: a @ b)})
    finally:
        torch.set_float32_matmul_precision("highest")
    return {**raced, "flop_per_s": 2 * n**3 / (1e-6 * raced["times"]["matmul"]["median_us"])}
