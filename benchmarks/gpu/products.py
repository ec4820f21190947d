"""Masked layers: the mask inside the product, beside the effective weight written first.

What `benchmarks.gpu.ways` makes its table of. Both are captured: from Python they differ by their
launches, which a step that counts does not pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.layers import PASSES, WAYS, Case, check, run
from benchmarks.gpu.shapes import Conv
from benchmarks.gpu.timing import Work

SECTION = "products"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Calls in a graph: the smallest products take as long as starting one.
RUNS = 5
CONVOLUTION, LINEAR = (
    tuple(name for name in PASSES if kind in name) for kind in ("conv2d", "linear")
)


def plan(bench: Bench) -> Iterator[Row]:
    of = bench.shapes
    # The interpreter's bfloat16 products are wrong.
    narrow = "float32" if bench.rehearsal else "bfloat16"
    for dtype in dict.fromkeys((narrow, "float32")):
        for (inputs, outputs), rows in product(of.linear, of.rows):
            case = Case((rows, inputs), (outputs, inputs))
            yield from _rows(bench, LINEAR, case, f"{rows} x {inputs}->{outputs}", dtype)
        for conv, batch in product(of.convs if dtype == narrow else of.exact, of.batches):
            case = case_of(conv, batch)
            yield from _rows(bench, CONVOLUTION, case, f"{conv} batch {batch}", dtype)


def case_of(conv: Conv, batch: int) -> Case:
    pad = (conv.kernel // 2,) * 2
    return Case(
        (batch, conv.inputs, conv.size, conv.size),
        (conv.outputs, conv.inputs, conv.kernel, conv.kernel),
        ((conv.stride,) * 2, pad, (1, 1), 1),
        order="last",
    )


def _rows(
    bench: Bench, operators: tuple[str, ...], case: Case, shape: str, dtype: str
) -> Iterator[Row]:
    for operator in operators:
        labels = {
            "operator": operator,
            "shape": shape,
            "dtype": dtype,
            "layout": "channels last" if case.geometry else "rows",
            "rows": _rows_counted(operator, case),
        }
        yield Row(
            f"{operator} {shape} {dtype}",
            lambda operator=operator: _measure(bench, operator, case, DTYPES[dtype]),
            labels,
        )


def _rows_counted(operator: str, case: Case) -> int:
    """Return the rows that `gemkern.kernels.gpu.ways` counts: those of the first operand."""
    first = case.x if operator in (LINEAR[0], CONVOLUTION[0]) else case.y_shape()
    return first[0] * first[2] * first[3] if case.geometry else first[0]


def _measure(bench: Bench, operator: str, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    of = case.random(bench.device, dtype)
    # PyTorch's defaults: convolutions may round to TF32, matrix products may not.
    rounded = bool(case.geometry) and not bench.rehearsal
    errors = {way: check(operator, way, of, case.geometry, rounded) for way in WAYS}
    raced = bench.clock.race({
        way: Work(lambda way=way: run(operator, way, of, case.geometry), not bench.rehearsal, RUNS)
        for way in WAYS
    })  # fmt: skip
    flop = 2 * case.multiplications()
    return {"errors": errors, "tf32": rounded, "flop": flop, **raced}
