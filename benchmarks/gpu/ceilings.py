"""What the machine can do at most: copies on the device, and large matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.layers import tf32
from benchmarks.gpu.result import Entry, Result
from benchmarks.gpu.timing import QUEUED, Work

SECTION = "ceilings"
# Each with the dtype of the product, and whether float32 is rounded to TF32.
PRODUCTS = {
    "bf16": (torch.bfloat16, False),
    "TF32": (torch.float32, True),
    "IEEE float32": (torch.float32, False),
}


def plan(bench: Bench) -> Iterator[Row]:
    for size in bench.shapes.copies:
        yield Row(_copy, what="copy", size=size)
    for kind in PRODUCTS:
        yield Row(_product, what="matmul", kind=kind)


def share_of_copy(result: Result, moved: int, microseconds: float) -> float | None:
    """Return a bandwidth as a fraction of the largest copy's; None where that is unknown.

    Args:
        moved: bytes read and written.
    """
    copy = result.find(SECTION, "copy 1 GB").get("bytes_per_s")
    return copy and moved / (1e-6 * microseconds) / copy


def _copy(bench: Bench, what: str, size: str) -> Entry:
    count = bench.shapes.copies[size]
    # Random bits: one number over and over can be copied faster.
    source = torch.randint(256, (count,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    raced = bench.clock.race({what: Work(lambda: target.copy_(source), QUEUED)}, cold=True)
    moved = 2 * count
    return {"bytes_per_s": moved / (1e-6 * raced["times"][what]["median_us"]), **raced}


def _product(bench: Bench, what: str, kind: str) -> Entry:
    dtype, rounded = PRODUCTS[kind]
    n = bench.shapes.matmul
    a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
    with tf32(rounded):
        raced = bench.clock.race({what: Work(lambda: a @ b, QUEUED)})
    rate = 2 * n**3 / (1e-6 * raced["times"][what]["median_us"])
    return {"n": n, "flop_per_s": rate, **raced}
