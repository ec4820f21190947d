"""Thresholds and score steps of whole networks, beside what they replace.

A share is of the largest copy's bandwidth: bytes that have to move, each once, over the time of the
captured kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from gemkern.kernels import reference

from benchmarks.gpu import baselines as base
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ceilings import share_of_copy
from benchmarks.gpu.exactness import copied, require_same
from benchmarks.gpu.timing import NotMeasured, Work

SECTION = "elementwise"
OURS = "gemkern, captured"
# A weight: float32 score and bool active read, mask written; and for a step score, active,
# gradient, momentum and weight read, score and momentum written, and the weight in bfloat16.
BYTES = {"threshold": 4 + 1 + 1, "score_step": (4 + 1 + 4 + 4 + 4) + (4 + 4 + 2)}
LABELS = {"dtype": "float32, effective weights bfloat16", "layout": "channels last"}
# Launches of ours in a graph, so that starting the graph does not count.
RUNS = 10
OPERATORS: dict[str, tuple[Callable[[base.State], Any], ...]] = {
    "threshold": (base.our_threshold, base.eager_threshold, base.authors_threshold),
    "score_step": (base.our_score_step, base.eager_score_step, base.authors_score_step),
}
STATES = {"cold": True, "warm": False}


def plan(bench: Bench) -> Iterator[Row]:
    for network in bench.shapes.networks:
        for operator in OPERATORS:
            for state in STATES:
                yield Row(
                    f"{operator} {network} {state}",
                    lambda args=(operator, network, state): _measure(bench, *args),
                    {"operator": operator, "network": network, "state": state, **LABELS},
                )


def plan_compiled(bench: Bench) -> Iterator[Row]:
    """Beside `torch.compile`: a section of its own and late, since compiling takes long."""
    for network in bench.shapes.networks:
        for operator in OPERATORS:
            yield Row(
                f"{operator} {network}",
                lambda args=(operator, network): _measure_compiled(bench, *args),
                {"operator": operator, "network": network, "state": "warm", **LABELS},
            )


def _measure(bench: Bench, operator: str, network: str, state: str) -> dict[str, Any]:
    of = base.random_state(bench.shapes.networks[network], bench.device)
    ours, eager, authors = OPERATORS[operator]
    _check(operator, of)
    cold = STATES[state]
    theirs = authors(of)
    works = {
        OURS: Work(lambda: ours(of), captured=True, runs=1 if cold else RUNS),
        "gemkern, called": Work(lambda: ours(of)),
        "authors, captured": Work(theirs, captured=True),
        "authors, called": Work(theirs),
        "eager, captured": Work(lambda: eager(of), captured=True),
        "eager, called": Work(lambda: eager(of)),
    }
    moved = BYTES[operator] * of.size
    entry = {"weights": of.size, "bytes": moved, **bench.clock.race(works, cold=cold)}
    if OURS in entry["times"]:
        entry["share"] = share_of_copy(bench.result, moved, entry["times"][OURS]["median_us"])
    return entry


def _measure_compiled(bench: Bench, operator: str, network: str) -> dict[str, Any]:
    if bench.rehearsal:
        raise NotMeasured("a rehearsal compiles nothing")
    of = base.random_state(bench.shapes.networks[network], bench.device)
    ours, eager, _ = OPERATORS[operator]
    _check(operator, of)
    for tensors in of.lists():
        for tensor in tensors:
            # Else inputs that change keep compiled code from using CUDA graphs.
            torch._dynamo.mark_static_address(tensor)
    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    graphed = torch.compile(eager, fullgraph=True, dynamic=False, mode="reduce-overhead")
    works = {
        OURS: Work(lambda: ours(of), captured=True, runs=RUNS),
        "gemkern, called": Work(lambda: ours(of)),
        "compiled, captured": Work(lambda: compiled(of), captured=True),
        "compiled, called": Work(lambda: compiled(of)),
        "compiled, reduce-overhead": Work(lambda: graphed(of)),
    }
    return {"weights": of.size, "bytes": BYTES[operator] * of.size, **bench.clock.race(works)}


def _check(operator: str, of: base.State) -> None:
    """Compare ours with the reference on copies, before anything is timed."""
    if operator == "threshold":
        require_same(base.our_threshold(of), reference.threshold(of.scores, of.active), operator)
        return
    ours, theirs = (base.State(*copied(of.lists())) for _ in range(2))
    for _ in range(2):
        base.our_score_step(ours)
        base.our_score_step(theirs, backend="reference")
    require_same(ours.lists(), theirs.lists(), operator)
