"""CUDA graphs: a replay gives the bits of the same call from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu.baselines import State, number, our_score_step, our_threshold, random_state
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import copied, require_same, tensors
from benchmarks.gpu.result import Entry
from benchmarks.gpu.step import MINERS, check_replay
from gemkern import ops

SECTION = "graphs"


def plan(bench: Bench) -> Iterator[Row]:
    for operator in CALLS:
        yield Row(_check, operator=operator)
    for miner in MINERS:
        yield Row(check_replay, network=bench.shapes.models[-1], miner=miner)


def _check(bench: Bench, operator: str) -> Entry:
    of = random_state(bench.shapes.networks["resnet20"], bench.device, bench.narrow)
    wanted_of, start = (State(*copied(of.lists())) for _ in range(2))
    wanted = CALLS[operator](wanted_of)
    out: list[Any] = []

    def call() -> None:
        out[:] = [CALLS[operator](of)]

    replay = bench.clock.captured(call)
    # The warm-up changed what is changed in place; what a capture returns is not computed yet.
    for now, before in zip(tensors(of.lists()), tensors(start.lists()), strict=True):
        now.copy_(before)
    for tensor in tensors(out):
        tensor.fill_(1)
    replay()
    require_same((out[0], of.lists()), (wanted, wanted_of.lists()), operator)
    return {"compared": len(list(tensors((wanted, of.lists()))))}


CALLS: dict[str, Callable[..., Any]] = {
    "threshold": our_threshold,
    "effective_weight": lambda of: ops.effective_weight(
        of.weights, of.scores, of.active, dtype=of.effective[0].dtype, backend="gpu"
    ),
    "select_kth": lambda of: ops.select_kth(
        of.scores, of.active, number(9, of.scores[0].device), backend="gpu"
    ),
    "popup_weight": lambda of: ops.popup_weight(
        of.weights, of.scores, number((5,) * len(of.scores), of.scores[0].device), backend="gpu"
    ),
    "score_step_sgd": our_score_step,
}
