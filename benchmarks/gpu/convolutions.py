"""What cuDNN reaches on the paper's shapes: the ceiling of anything sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from benchmarks.gpu import ceilings
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.products import case_of
from benchmarks.gpu.shapes import Conv
from benchmarks.gpu.timing import Work

SECTION = "cudnn"
BATCHES = (128, 512)
# The dtype of a convolution, and the product whose rate is its ceiling.
DTYPES = {"bf16": torch.bfloat16, "TF32": torch.float32}


def plan(bench: Bench) -> Iterator[Row]:
    for dtype, batch, conv in product(DTYPES, BATCHES, bench.shapes.cudnn):
        yield Row(
            f"{conv} batch {batch} {dtype}",
            lambda args=(conv, batch, dtype): _measure(bench, *args),
            {"shape": str(conv), "batch": batch, "dtype": dtype, "layout": "channels last"},
        )


def _measure(bench: Bench, conv: Conv, batch: int, dtype: str) -> dict[str, Any]:
    case = case_of(conv, batch)
    of = case.random(bench.device, DTYPES[dtype])
    weight = of.weight.to(of.x.dtype)
    stride, padding, dilation, groups = case.geometry

    def backward(x: bool, weight_too: bool) -> Callable[[], object]:
        return lambda: torch.ops.aten.convolution_backward(
            of.grad_y, of.x, weight, None, stride, padding, dilation, False, (0, 0), groups,
            (x, weight_too, False),
        )  # fmt: skip

    raced = bench.clock.race({
        "forward": Work(lambda: torch.conv2d(of.x, weight, None, *case.geometry)),
        "input gradient": Work(backward(True, False)),
        "weight gradient": Work(backward(False, True)),
    })  # fmt: skip
    flop = 2 * case.multiplications()
    rates = {name: flop / (1e-6 * t["median_us"]) for name, t in raced["times"].items()}
    ceiling = bench.result.find(ceilings.SECTION, f"matmul {bench.shapes.matmul} {dtype}")
    most = ceiling.get("flop_per_s")
    shares = {name: rate / most for name, rate in rates.items()} if most else {}
    return {"flop": flop, "flop_per_s": rates, "shares": shares, **raced}
