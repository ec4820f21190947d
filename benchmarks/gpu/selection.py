"""Edge-popup's choice and the k-th smallest score, beside sorting and `torch.topk`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gemkern.kernels import reference
from torch import Tensor

from benchmarks.gpu.baselines import random_state, sorted_popup, topk_popup
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import require_same
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import CALLED, CAPTURED, Work, in_ways
from gemkern import ops

SECTION = "selection"
POPUP = "popup_weight resnet50"
# What edge-popup keeps of each layer; what a freeze takes of the whole network.
KEPT = 0.5
FROZEN = 0.136


def plan(bench: Bench) -> Iterator[Row]:
    yield Row(_popup, operator="popup_weight", network="resnet50")
    for network in bench.shapes.networks:
        yield Row(_select, operator="select_kth", network=network)


def _popup(bench: Bench, operator: str, network: str) -> Entry:
    shapes = bench.shapes.networks[network]
    weights, scores = ([torch.randn(s, device=bench.device) for s in shapes] for _ in range(2))
    counts = [round(KEPT * score.numel()) for score in scores]
    kept = torch.tensor(counts, device=bench.device)
    dtype = bench.narrow
    require_same(
        ops.popup_weight(weights, scores, kept, dtype, backend="gpu"),
        reference.popup_weight(weights, scores, kept, dtype),
        operator,
    )
    works = {
        "gemkern": lambda: ops.popup_weight(weights, scores, kept, dtype, backend="gpu"),
        "sort per layer": lambda: sorted_popup(weights, scores, counts, dtype),
        "topk": lambda: topk_popup(weights, scores, counts, dtype),
    }
    labels = {"weights": sum(score.numel() for score in scores), "dtype": f"float32 to {dtype}"}
    return {**labels, **bench.clock.race(in_ways((CAPTURED, CALLED), works))}


def _select(bench: Bench, operator: str, network: str) -> Entry:
    of = random_state(bench.shapes.networks[network], bench.device, bench.narrow)
    scores = [score.contiguous() for score in of.scores]
    active = [on.contiguous() for on in of.active]
    count = round(FROZEN * int(sum(on.sum() for on in active)))
    k = torch.tensor(count, device=bench.device)
    require_same(
        ops.select_kth(scores, active, k, backend="gpu"),
        reference.select_kth(scores, active, k),
        operator,
    )

    def gathered() -> Tensor:
        """The authors' way: active scores gathered, which waits for their number, and sorted."""
        rows = [score[on] for score, on in zip(scores, active, strict=True)]
        return torch.cat(rows).sort().values[count - 1]

    def ranked() -> Tensor:
        pairs = zip(scores, active, strict=True)
        return torch.cat([score.masked_fill(~on, torch.inf).flatten() for score, on in pairs])

    works = {
        "gemkern": lambda: ops.select_kth(scores, active, k, backend="gpu"),
        "sort": lambda: ranked().sort().values[count - 1],
        "topk": lambda: ranked().topk(count, largest=False, sorted=False).values.max(),
    }
    labels = {"weights": sum(score.numel() for score in scores), "dtype": "float32", "k": count}
    rivals = {**in_ways((CAPTURED, CALLED), works), "authors, called": Work(gathered)}
    return {**labels, **bench.clock.race(rivals)}
