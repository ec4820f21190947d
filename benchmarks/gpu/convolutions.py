"""What cuDNN reaches on the paper's shapes: the ceiling of anything sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from benchmarks.gpu import ceilings
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.products import Images
from benchmarks.gpu.result import Entry
from benchmarks.gpu.shapes import Conv
from benchmarks.gpu.timing import QUEUED, Work

SECTION = "cudnn"
BATCHES = (128, 512)
# The dtype of a convolution, and the product whose rate is its ceiling.
DTYPES = {"bf16": torch.bfloat16, "TF32": torch.float32}


def plan(bench: Bench) -> Iterator[Row]:
    for dtype, batch, conv in product(DTYPES, BATCHES, bench.shapes.cudnn):
        yield Row(_measure, conv=conv, batch=Images(batch), dtype=dtype)


def _measure(bench: Bench, conv: Conv, batch: Images, dtype: str) -> Entry:
    case = batch.case(conv)
    of = case.random(bench.device, DTYPES[dtype])
    weight = of.weight.to(of.x.dtype)
    *geometry, groups = case.geometry

    def gradient(*wanted: bool) -> Callable[[], object]:
        sizes = (None, *geometry, False, (0, 0), groups, (*wanted, False))
        return lambda: torch.ops.aten.convolution_backward(of.grad_y, of.x, weight, *sizes)

    raced = bench.clock.race({
        "forward": Work(lambda: torch.conv2d(of.x, weight, None, *case.geometry), QUEUED),
        "input gradient": Work(gradient(True, False), QUEUED),
        "weight gradient": Work(gradient(False, True), QUEUED),
    })  # fmt: skip
    flop = 2 * case.multiplications()
    rates = {name: flop / (1e-6 * t["median_us"]) for name, t in raced["times"].items()}
    most = bench.result.find(ceilings.SECTION, f"matmul {dtype}").get("flop_per_s")
    shares = {name: rate / most for name, rate in rates.items()} if most else {}
    return {"layout": "channels last", "flop": flop, "rates": rates, "shares": shares, **raced}
