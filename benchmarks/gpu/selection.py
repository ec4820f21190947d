"""Edge-popup's choice and the k-th smallest score, beside sorting and `torch.topk`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from gemkern.kernels import reference
from torch import Tensor

from benchmarks.gpu.baselines import HALF, random_state, sorted_popup, topk_popup
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import require_same
from benchmarks.gpu.timing import Work
from gemkern import ops

SECTION = "selection"
POPUP = "popup_weight"
# Of each layer, what edge-popup keeps; of the whole network, what a freeze takes.
KEPT = 0.5
FROZEN = 0.136


def plan(bench: Bench) -> Iterator[Row]:
    network = bench.shapes.popup
    labels = {"network": network, "dtype": "float32, effective weights bfloat16"}
    yield Row(f"{POPUP} {network}", lambda: _popup(bench), labels)
    for name in bench.shapes.networks:
        yield Row(
            f"select_kth {name}",
            lambda name=name: _select(bench, name),
            {"network": name, "dtype": "float32"},
        )


def _popup(bench: Bench) -> dict[str, Any]:
    shapes = bench.shapes.networks[bench.shapes.popup]
    weights, scores = ([torch.randn(s, device=bench.device) for s in shapes] for _ in range(2))
    counts = [round(KEPT * score.numel()) for score in scores]
    kept = torch.tensor(counts, device=bench.device)

    def ours() -> list[Tensor]:
        return ops.popup_weight(weights, scores, kept, dtype=HALF, backend="gpu")

    require_same(ours(), reference.popup_weight(weights, scores, kept, HALF), POPUP)

    def by_sorting() -> list[Tensor]:
        return sorted_popup(weights, scores, counts)

    def by_topk() -> list[Tensor]:
        return topk_popup(weights, scores, counts)

    rivals = {"gemkern": ours, "sort per layer": by_sorting, "topk": by_topk}
    return {
        "weights": sum(score.numel() for score in scores),
        **bench.clock.race({
            f"{name}, {how}": Work(call, captured=how == "captured")
            for name, call in rivals.items()
            for how in ("captured", "called")
        }),
    }  # fmt: skip


def _select(bench: Bench, network: str) -> dict[str, Any]:
    of = random_state(bench.shapes.networks[network], bench.device)
    scores = [score.contiguous() for score in of.scores]
    active = [on.contiguous() for on in of.active]
    count = round(FROZEN * int(sum(on.sum() for on in active)))
    k = torch.tensor(count, device=bench.device)

    def ours() -> tuple[Tensor, Tensor]:
        return ops.select_kth(scores, active, k, backend="gpu")

    require_same(ours(), reference.select_kth(scores, active, k), "select_kth")

    def gathered() -> Tensor:
        """The authors' way: active scores gathered, which waits for their number, and sorted."""
        rows = [score[on] for score, on in zip(scores, active, strict=True)]
        return torch.cat(rows).sort().values[count - 1]

    def ranked() -> Tensor:
        pairs = zip(scores, active, strict=True)
        return torch.cat([torch.where(on, s, torch.inf).flatten() for s, on in pairs])

    def by_sorting() -> Tensor:
        return ranked().sort().values[count - 1]

    def by_topk() -> Tensor:
        return ranked().topk(count, largest=False, sorted=False).values.max()

    works = {
        "gemkern, captured": Work(ours, captured=True),
        "gemkern, called": Work(ours),
        "authors, called": Work(gathered),
        "sort, captured": Work(by_sorting, captured=True),
        "sort, called": Work(by_sorting),
        "topk, captured": Work(by_topk, captured=True),
        "topk, called": Work(by_topk),
    }
    return {"weights": of.size, "k": count, **bench.clock.race(works)}
