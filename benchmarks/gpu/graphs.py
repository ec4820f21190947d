"""CUDA graphs: a replay gives the bits of the same call from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.baselines import random_state
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import copied, require_same, tensors
from benchmarks.gpu.step import check_replay
from gemkern import ops

SECTION = "graphs"


def plan(bench: Bench) -> Iterator[Row]:
    for operator in CALLS:
        yield Row(operator, lambda operator=operator: _check(bench, operator))
    model = bench.shapes.models[-1]
    yield Row(f"Gem-Miner step {model}", lambda: check_replay(bench, model), {"network": model})


def _check(bench: Bench, operator: str) -> dict[str, Any]:
    shapes = bench.shapes.networks["resnet20"]
    scores, active, grads, buffers, weights, effective = random_state(shapes, bench.device).lists()
    k = torch.tensor(sum(score.numel() for score in scores) // 4, device=bench.device)
    kept = torch.tensor([score.numel() // 2 for score in scores], device=bench.device)
    start = (scores, active, grads, buffers, weights, effective, k, kept)
    eager, replayed = copied(start), copied(start)
    wanted = CALLS[operator](*eager)
    out: list[Any] = []

    def call() -> None:
        out[:] = [CALLS[operator](*replayed)]

    replay = bench.clock.captured(call)
    # The warm-up changed what is changed in place; what it returned is gone.
    for now, before in zip(tensors(replayed), tensors(start), strict=True):
        now.copy_(before)
    for tensor in tensors(out):
        tensor.fill_(1)
    replay()
    require_same((out[0], replayed), (wanted, eager), operator)
    return {"compared": len(list(tensors((wanted, eager))))}


def _score_step(scores, active, grads, buffers, weights, effective, *_: Any) -> None:
    ops.score_step_sgd(
        scores, active, grads, buffers, weights, effective, lr=0.1, l2=1e-4, backend="gpu"
    )


CALLS: dict[str, Callable[..., Any]] = {
    "threshold": lambda s, on, *_: ops.threshold(s, on, backend="gpu"),
    "effective_weight": lambda s, on, g, v, w, *_: ops.effective_weight(
        w, s, on, dtype=torch.bfloat16, memory_format=torch.channels_last, backend="gpu"
    ),
    "select_kth": lambda s, on, g, v, w, e, k, kept: ops.select_kth(s, on, k, backend="gpu"),
    "popup_weight": lambda s, on, g, v, w, e, k, kept: ops.popup_weight(
        w, s, kept, dtype=torch.bfloat16, backend="gpu"
    ),
    "score_step_sgd": _score_step,
}
