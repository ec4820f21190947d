"""Time the mask operators beside what they replace, on whatever device is there.

Baselines do the same work in the same dtype and layout: the authors' sequence of operators, what a
careful user of PyTorch writes (eager), and that compiled. Each contender's result is compared with
the reference first; a wrong one is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.gpu import baselines as base
from benchmarks.gpu.shapes import weights_of
from benchmarks.operators import (
    AUTHORS,
    COMPILED,
    DEVICE,
    EAGER,
    OURS,
    compiled,
    first_result,
    timed,
)
from benchmarks.score_steps import FUSED, LAYERS, PLAIN, SCORES, score_steps
from gemkern import ops

NETWORKS = ("resnet20", "vgg16")
CONTENDERS = (OURS, AUTHORS, EAGER, COMPILED)
SORT, TOPK = "sort", "topk"
# What edge-popup keeps of each layer; a freeze takes one of so many active scores.
KEPT, FROZEN = 0.5, 8
STEPS = 2
# How near to the threshold a rounded score may fall to its other side.
SIDE = 1e-6


def state_of(network: str) -> base.State:
    """Return scores, weights and gradients of all layers, float32, in channels-last order."""
    torch.manual_seed(0)
    of = base.random_state(weights_of(network), DEVICE, torch.float32)
    for score in of.scores:
        # At the threshold the authors mask and others do not.
        score.masked_fill_(score == base.TAU, 1.0)
    return of


def eager_effective_weight(of: base.State) -> list[Tensor]:
    masks = base.eager_threshold(of)
    return [torch.where(mask, weight, 0) for mask, weight in zip(masks, of.weights, strict=True)]


def authors_effective_weight(of: base.State) -> Callable[[], list[Tensor]]:
    layers = zip(of.weights, of.scores, of.active, strict=True)
    masks = [base.AuthorsMask(*layer) for layer in layers]
    return torch.no_grad()(lambda: [mask() for mask in masks])


def require_equal(found: Sequence[Tensor], wanted: Sequence[Tensor], what: str) -> None:
    """Check that numbers are equal, whatever the dtype of a mask and the sign of a zero."""
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other.to(one.dtype)), f"{what} is wrong"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_threshold(benchmark: BenchmarkFixture, contender: str, network: str) -> None:
    """The masks of all layers."""
    benchmark.group = f"masks of {network}"
    of = state_of(network)
    tau = base.number(base.TAU, of.scores[0].device)
    work = {
        OURS: lambda: ops.threshold(of.scores, of.active, tau),
        AUTHORS: base.authors_threshold(of),
        EAGER: partial(base.eager_threshold, of),
        COMPILED: partial(compiled(base.eager_threshold), of),
    }[contender]
    found: Any = first_result(contender, work)
    require_equal(found, reference.threshold(of.scores, of.active), f"{contender}: a mask")
    timed(benchmark, work)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_effective_weight(benchmark: BenchmarkFixture, contender: str, network: str) -> None:
    """The effective weights of all layers."""
    benchmark.group = f"effective weights of {network}, float32"
    of = state_of(network)
    work = {
        OURS: lambda: ops.effective_weight(of.weights, of.scores, of.active),
        AUTHORS: authors_effective_weight(of),
        EAGER: partial(eager_effective_weight, of),
        COMPILED: partial(compiled(eager_effective_weight), of),
    }[contender]
    found = first_result(contender, work)
    wanted = reference.effective_weight(of.weights, of.scores, of.active)
    require_equal(found, wanted, f"{contender}: an effective weight")
    timed(benchmark, work)


def score_step(contender: str, of: base.State) -> Callable[[], list[Tensor]]:
    """Return a contender's step over the scores of all layers, which returns effective weights.

    They are the next ones; the authors' are those before the step.
    """
    if contender == AUTHORS:
        return base.authors_score_step(of)
    step = {
        OURS: partial(base.our_score_step, backend="auto"),
        EAGER: base.eager_score_step,
        COMPILED: compiled(base.eager_score_step),
    }[contender]

    def work() -> list[Tensor]:
        step(of)
        return of.effective

    return work


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_network_score_step(benchmark: BenchmarkFixture, contender: str, network: str) -> None:
    """One step over the scores of all layers, to the next effective weights."""
    benchmark.group = f"score step of {network}, float32"
    of, wanted = state_of(network), state_of(network)
    work = score_step(contender, of)
    for _ in range(STEPS):
        effective = first_result(contender, work)
        base.our_score_step(wanted, backend="reference")
    if contender == AUTHORS:
        effective = work()
    else:
        torch.testing.assert_close(of.scores, wanted.scores)
    for found, other, score in zip(effective, wanted.effective, wanted.scores, strict=True):
        settled = (score - base.TAU).abs() > SIDE
        assert torch.equal(found[settled], other[settled]), f"{contender}: a weight is wrong"
    timed(benchmark, work)


@pytest.mark.parametrize("contender", [PLAIN, FUSED])
def bench_score_step(benchmark: BenchmarkFixture, contender: str) -> None:
    """One step over as many scores as ResNet-20 has: by PyTorch's optimiser, and fused."""
    benchmark.group = f"score step, {LAYERS} layers, {SCORES:,} scores, float32"
    timed(benchmark, score_steps(DEVICE)[contender])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", [OURS, AUTHORS, TOPK, COMPILED])
def bench_edge_popup(benchmark: BenchmarkFixture, contender: str, network: str) -> None:
    """Edge-popup's effective weights: the highest half of the scores of each layer."""
    benchmark.group = f"edge-popup of {network}, float32"
    weights = [weight.contiguous() for weight in state_of(network).weights]
    # No two alike in a layer: sorting does not say which of them comes first.
    scores = [torch.randperm(one.numel(), device=DEVICE).float().view_as(one) for one in weights]
    counts = [round(KEPT * score.numel()) for score in scores]
    kept = torch.tensor(counts, device=DEVICE)
    operands = (weights, scores, counts, torch.float32)
    work = {
        OURS: lambda: ops.popup_weight(weights, scores, kept),
        AUTHORS: partial(base.sorted_popup, *operands),
        TOPK: partial(base.topk_popup, *operands),
        COMPILED: partial(compiled(base.topk_popup), *operands),
    }[contender]
    found = first_result(contender, work)
    require_equal(found, reference.popup_weight(weights, scores, kept), f"{contender}: a weight")
    timed(benchmark, work)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", [OURS, AUTHORS, SORT, TOPK])
def bench_freeze(benchmark: BenchmarkFixture, contender: str, network: str) -> None:
    """The k-th smallest of all active scores."""
    benchmark.group = f"k-th smallest score of {network}"
    of = state_of(network)
    scores, active = ([one.contiguous() for one in of_all] for of_all in (of.scores, of.active))
    count = int(sum(on.sum() for on in active)) // FROZEN
    k = torch.tensor(count, device=DEVICE)

    def gathered() -> Tensor:
        rows = [score[on] for score, on in zip(scores, active, strict=True)]
        return torch.cat(rows).sort().values[count - 1]

    def masked() -> Tensor:
        pairs = zip(scores, active, strict=True)
        return torch.cat([score.masked_fill(~on, torch.inf).flatten() for score, on in pairs])

    work: Callable[[], Tensor] = {
        OURS: lambda: ops.select_kth(scores, active, k)[0],
        AUTHORS: gathered,
        SORT: lambda: masked().sort().values[count - 1],
        TOPK: lambda: masked().topk(count, largest=False, sorted=False).values.max(),
    }[contender]
    kth, _ = reference.select_kth(scores, active, k)
    assert torch.equal(work(), kth), f"{contender}: the k-th smallest score is wrong"
    timed(benchmark, work)
