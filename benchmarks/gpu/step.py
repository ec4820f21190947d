"""Whole training steps: what masks add to them, from Python and as CUDA graphs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from benchmarks.gpu.baselines import L2, LR, MOMENTUM, AuthorsMask, AuthorsStep, authors_network
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import WrongResult, relative_error, require_same
from benchmarks.gpu.timing import WARMUPS, NotMeasured, Work
from gemkern.models import build

SECTION = "step"
DENSE, OURS, FUSED = "dense", "gem-miner", "gem-miner, fused"
HOWS = ("captured", "called")
# Logits of a network with the zeros baked in, in bfloat16.
CLOSE = 2e-2
LABELS = {"dtype": "bfloat16 autocast", "layout": "channels last"}


def plan(bench: Bench) -> Iterator[Row]:
    for model in bench.shapes.models:
        for how in HOWS:
            yield Row(
                f"{model} {how}",
                lambda args=(model, how): _measure(bench, *args),
                {"network": model, "how": how, "batch": bench.shapes.batch, **LABELS},
            )


def plan_compiled(bench: Bench) -> Iterator[Row]:
    model = bench.shapes.models[-1]
    labels = {"network": model, "batch": bench.shapes.batch, **LABELS}
    yield Row(f"{model} step", lambda: _measure_compiled(bench, model), labels)


def _measure(bench: Bench, model: str, how: str) -> dict[str, Any]:
    _check_logits(bench, model)
    captured = how == "captured"
    makers = {DENSE: dense_step, OURS: gem_miner_step, "authors": authors_step}
    if "fused" in inspect.signature(gk.GemMiner).parameters:
        makers[FUSED] = partial(gem_miner_step, fused=True)
    makers["forward and backward"] = backward_alone
    works = {name: Work(make(bench, model), captured) for name, make in makers.items()}
    raced = bench.clock.race(works)
    medians = {name: times["median_us"] for name, times in raced["times"].items()}
    dense = medians.get(DENSE)
    overhead = {name: median / dense - 1 for name, median in medians.items()} if dense else {}
    return {**raced, "overhead": overhead}


def _measure_compiled(bench: Bench, model: str) -> dict[str, Any]:
    if bench.rehearsal:
        raise NotMeasured("a rehearsal compiles nothing")
    torch._dynamo.reset()
    modes = ("", "default", "reduce-overhead")
    eager, compiled, graphed = (dense_step(bench, model, mode) for mode in modes)
    return bench.clock.race({
        "dense, captured": Work(eager, captured=True),
        "dense, called": Work(eager),
        "compiled, captured": Work(compiled, captured=True),
        "compiled, called": Work(compiled),
        "compiled, reduce-overhead": Work(graphed),
        "gem-miner, captured": Work(gem_miner_step(bench, model), captured=True),
    })  # fmt: skip


def dense_step(bench: Bench, name: str, compiled: str = "") -> Callable[[], Tensor]:
    """Return a step of plain SGD over the weights; `compiled` is a mode of torch.compile."""
    model = _network(bench, name)
    forward = torch.compile(model, mode=compiled) if compiled else model
    sgd = torch.optim.SGD(model.parameters(), LR, MOMENTUM)
    loss_of = _loss(bench, forward)

    def step() -> Tensor:
        loss = loss_of()
        loss.backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def backward_alone(bench: Bench, name: str) -> Callable[[], Tensor]:
    """Return the dense step without its optimiser."""
    model = _network(bench, name)
    loss_of = _loss(bench, model)

    def step() -> Tensor:
        loss = loss_of()
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def gem_miner_step(bench: Bench, name: str, **options: Any) -> Callable[[], Tensor]:
    return _mined(bench, name, **options)[1]


def _mined(bench: Bench, name: str, **options: Any) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = _network(bench, name)
    gk.convert(model, scores=True)
    miner = gk.GemMiner(model, density=0.0144, epochs=150, freeze_every=5, l2=L2, seed=0, **options)
    loss_of = _loss(bench, model)

    def step() -> Tensor:
        loss = loss_of()
        loss.backward()
        miner.step()
        return loss.detach()

    return model, step


def authors_step(bench: Bench, name: str) -> Callable[[], Tensor]:
    model = authors_network(_network(bench, name)).to(memory_format=torch.channels_last)
    masks = [module for module in model.modules() if isinstance(module, AuthorsMask)]
    authors = AuthorsStep(masks)
    loss_of = _loss(bench, model)

    def step() -> Tensor:
        authors.project()
        loss = loss_of() + authors.penalty()
        authors.sgd.zero_grad(set_to_none=True)
        loss.backward()
        authors.sgd.step()
        return loss.detach()

    return step


def check_replay(bench: Bench, name: str) -> dict[str, Any]:
    """Check that a captured Gem-Miner step gives the bits of an eager one, three steps long."""
    if bench.rehearsal:
        raise NotMeasured("a CPU has no CUDA graphs")
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        runs = [_after_steps(bench, name, captured) for captured in (False, False, True)]
    finally:
        cudnn.benchmark, cudnn.deterministic = before
    require_same(runs[1], runs[0], "an eager step repeated")
    require_same(runs[2], runs[0], "a replayed step")
    return {"compared": len(runs[0])}


def _after_steps(bench: Bench, name: str, captured: bool) -> list[Tensor]:
    """Return the state after the warm-up of a capture and three steps more, eager or replayed."""
    model, step = _mined(bench, name)
    call = bench.clock.captured(step) if captured else step
    for _ in range(3 if captured else WARMUPS + 3):
        call()
    return list(model.state_dict().values())


def _check_logits(bench: Bench, name: str) -> None:
    model = _network(bench, name)
    gk.convert(model, scores=True)
    plain = copy.deepcopy(model)
    gk.unconvert(plain)
    images, _ = _batch(bench)
    with torch.no_grad(), _autocast(bench):
        error = relative_error(model(images), plain(images))
    if not error <= CLOSE:
        raise WrongResult(f"{name}: logits of masked layers are {error:.1e} off the plain ones")


def _network(bench: Bench, name: str) -> nn.Module:
    model = build(name, image_size=bench.shapes.image, seed=0)
    return model.to(bench.device, memory_format=torch.channels_last).train()


def _batch(bench: Bench) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, count = bench.shapes.image, bench.shapes.batch
    images = torch.randn(count, 3, side, side, generator=generator).to(bench.device)
    labels = torch.randint(10, (count,), generator=generator).to(bench.device)
    return images.contiguous(memory_format=torch.channels_last), labels


def _loss(bench: Bench, model: nn.Module) -> Callable[[], Tensor]:
    images, labels = _batch(bench)

    def loss() -> Tensor:
        with _autocast(bench):
            return F.cross_entropy(model(images), labels)

    return loss


def _autocast(bench: Bench) -> torch.autocast:
    return torch.autocast(bench.device, dtype=torch.bfloat16)
