"""Masked layers: the mask inside the product, beside the effective weight written first.

What `benchmarks.gpu.ways` makes its table of. Both are queued: from Python they differ by their
launches, which a captured step does not pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.layers import PASSES, WAYS, Case, check, run
from benchmarks.gpu.result import Entry
from benchmarks.gpu.shapes import Conv
from benchmarks.gpu.timing import QUEUED, Work

SECTION, FLOAT32 = "products", "products float32"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Rows(int):
    """Rows of a linear layer's input."""

    def case(self, layer: tuple[int, int]) -> Case:
        return Case((self, layer[0]), (layer[1], layer[0]))


class Images(int):
    """Images of a convolution's input."""

    def case(self, conv: Conv) -> Case:
        size, kernel = (conv.size,) * 2, (conv.kernel,) * 2
        geometry = ((conv.stride,) * 2, (conv.kernel // 2,) * 2, (1, 1), 1)
        weight = (conv.outputs, conv.inputs, *kernel)
        return Case((self, conv.inputs, *size), weight, geometry, order="last")


def plan(bench: Bench) -> Iterator[Row]:
    # The interpreter's bfloat16 products are wrong.
    return _plan(bench, "float32" if bench.rehearsal else "bfloat16", bench.shapes.convs)


def plan_float32(bench: Bench) -> Iterator[Row]:
    """A section of its own and late, since exact products take long."""
    return _plan(bench, "float32", bench.shapes.convs[:4])


def _plan(bench: Bench, dtype: str, convs: Sequence[Conv]) -> Iterator[Row]:
    of = bench.shapes
    linear = product(of.linear, map(Rows, of.rows))
    for (layer, batch), operator in product(
        (*linear, *product(convs, map(Images, of.batches))), PASSES
    ):
        if batch.case(layer).serves(operator):
            yield Row(_measure, operator=operator, layer=layer, batch=batch, dtype=dtype)


def _measure(
    bench: Bench, operator: str, layer: tuple[int, int] | Conv, batch: Rows | Images, dtype: str
) -> Entry:
    case = batch.case(layer)
    of = case.random(bench.device, DTYPES[dtype])
    # PyTorch's defaults: convolutions may round to TF32, matrix products may not.
    rounded = bool(case.geometry) and not bench.rehearsal
    errors = {way: check(operator, way, of, case.geometry, rounded) for way in WAYS}
    flop = 2 * case.multiplications()
    # A score keeps its gradient where its weight is masked now.
    remaining = of.active if operator.endswith("_score_grad") else of.mask()
    density = remaining.float().mean().item()
    works = {
        way: Work(lambda way=way: run(operator, way, of, case.geometry), QUEUED) for way in WAYS
    }
    labels = {"rows": _rows(operator, case), "layout": case.order, "tf32": rounded}
    labels |= {"flop": flop, "useful_flop": round(density * flop), "density": round(density, 4)}
    return {**labels, "errors": errors, **bench.clock.race(works)}


def _rows(operator: str, case: Case) -> int:
    """Return the rows that `gemkern.kernels.gpu.ways` counts: those of the first operand."""
    first = case.x if operator in ("masked_linear", "masked_conv2d") else case.y_shape()
    return first[0] * first[2] * first[3] if case.geometry else first[0]
