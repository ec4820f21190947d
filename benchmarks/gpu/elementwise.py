"""Thresholds and score steps of whole networks, beside what they replace.

A share is of the largest copy's bandwidth: bytes that have to move, each once, over the time of the
queued kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from gemkern.kernels import reference

from benchmarks.gpu import baselines as base
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ceilings import share_of_copy
from benchmarks.gpu.exactness import copied, require_same
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import CALLED, CAPTURED, QUEUED, Work, in_ways

SECTION = "elementwise"
OURS = "gemkern, queued"
# Of a weight: float32 score and bool active read, mask written; and for a step score, active,
# gradient, momentum and weight read, score and momentum written, and the weight in 16 bits.
BYTES = {"threshold": 4 + 1 + 1, "score_step": (4 + 1 + 4 + 4 + 4) + (4 + 4 + 2)}
OPERATORS: dict[str, tuple[Callable[[base.State], Any], ...]] = {
    "threshold": (base.our_threshold, base.eager_threshold, base.authors_threshold),
    "score_step": (base.our_score_step, base.eager_score_step, base.authors_score_step),
}
COLD, WARM = "cold", "warm"


def plan(bench: Bench) -> Iterator[Row]:
    for network, operator, state in product(bench.shapes.networks, OPERATORS, (COLD, WARM)):
        yield Row(_measure, operator=operator, network=network, state=state)


def plan_compiled(bench: Bench) -> Iterator[Row]:
    """Beside `torch.compile`: a section of its own and late, since compiling takes long."""
    for network, operator in product(bench.shapes.networks, OPERATORS):
        yield Row(_measure_compiled, operator=operator, network=network)


def _measure(bench: Bench, operator: str, network: str, state: str) -> Entry:
    of = _checked(bench, operator, network)
    ours, eager, authors = OPERATORS[operator]
    works = {OURS: Work(lambda: ours(of), QUEUED)} | in_ways(
        (CAPTURED, CALLED),
        {"gemkern": lambda: ours(of), "authors": authors(of), "eager": lambda: eager(of)},
    )
    entry = {**_labels(operator, of), **bench.clock.race(works, cold=state == COLD)}
    if OURS in entry["times"]:
        median = entry["times"][OURS]["median_us"]
        entry["share"] = share_of_copy(bench.result, entry["bytes"], median)
    return entry


def _measure_compiled(bench: Bench, operator: str, network: str) -> Entry:
    bench.require_compiler()
    of = _checked(bench, operator, network)
    ours, eager, _ = OPERATORS[operator]
    for tensor in (tensor for tensors in of.lists() for tensor in tensors):
        # Compiled code uses CUDA graphs on inputs that change only where they stay in place.
        torch._dynamo.mark_static_address(tensor)
    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    graphed = torch.compile(eager, fullgraph=True, dynamic=False, mode="reduce-overhead")
    works = {
        OURS: Work(lambda: ours(of), QUEUED),
        **in_ways(
            (CAPTURED, CALLED), {"gemkern": lambda: ours(of), "compiled": lambda: compiled(of)}
        ),
        "compiled, reduce-overhead": Work(lambda: graphed(of)),
    }
    return {**_labels(operator, of), **bench.clock.race(works)}


def _checked(bench: Bench, operator: str, network: str) -> base.State:
    """Return operands on which ours has given what the reference gives."""
    of = base.random_state(bench.shapes.networks[network], bench.device, bench.narrow)
    if operator == "threshold":
        require_same(base.our_threshold(of), reference.threshold(of.scores, of.active), operator)
        return of
    ours, theirs = (base.State(*copied(of.lists())) for _ in range(2))
    for _ in range(2):
        base.our_score_step(ours)
        base.our_score_step(theirs, backend="reference")
    require_same(ours.lists(), theirs.lists(), operator)
    return of


def _labels(operator: str, of: base.State) -> Entry:
    weights = sum(score.numel() for score in of.scores)
    return {
        "weights": weights,
        "bytes": BYTES[operator] * weights,
        "dtype": f"float32, effective weights {of.effective[0].dtype}",
        "layout": "channels last",
    }
