"""Whole training steps: what masks add to them, from Python and as CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from benchmarks.gpu.baselines import L2, LR, MOMENTUM, AuthorsMask, AuthorsStep, authors_network
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.exactness import WrongResult, relative_error, require_same
from benchmarks.gpu.result import Entry
from benchmarks.gpu.timing import CALLED, CAPTURED, Work, in_ways
from gemkern.models import build

SECTION = "step"
DENSE, PLAIN, FUSED = "dense", "gem-miner", "gem-miner, fused"
MINERS = (FUSED, PLAIN)
DENSITY = 0.0144
HOWS = (CAPTURED, CALLED)
# Of the norm of the logits: rounding in 16 bits.
CLOSE = 2e-2


def plan(bench: Bench) -> Iterator[Row]:
    for network, how in product(bench.shapes.models, HOWS):
        yield Row(_measure, network=network, how=how)


def plan_compiled(bench: Bench) -> Iterator[Row]:
    yield Row(_measure_compiled, network=bench.shapes.models[-1])


def _measure(bench: Bench, network: str, how: str) -> Entry:
    _check_logits(bench, network)
    steps = {
        FUSED: mined(bench, network, FUSED)[1],
        PLAIN: mined(bench, network, PLAIN)[1],
        DENSE: dense_step(bench, network),
        "authors": authors_step(bench, network),
        "forward and backward": backward_alone(bench, network),
    }
    raced = bench.clock.race({name: Work(step, how) for name, step in steps.items()})
    medians = {name: times["median_us"] for name, times in raced["times"].items()}
    dense = medians.get(DENSE)
    over = {name: median / dense - 1 for name, median in medians.items()} if dense else {}
    return {**setting(bench), "overhead": over, **raced}


def _measure_compiled(bench: Bench, network: str) -> Entry:
    bench.require_compiler()
    torch._dynamo.reset()
    eager = dense_step(bench, network)
    compiled = dense_step(bench, network, "default")
    raced = bench.clock.race({
        f"{FUSED}, captured": Work(mined(bench, network, FUSED)[1], CAPTURED),
        **in_ways(HOWS, {"dense": eager, "compiled": compiled}),
        "compiled, reduce-overhead": Work(dense_step(bench, network, "reduce-overhead")),
    })  # fmt: skip
    return {**setting(bench), **raced}


def setting(bench: Bench) -> Entry:
    dtype = f"{bench.narrow} autocast"
    return {"batch": bench.shapes.batch, "dtype": dtype, "layout": "channels last"}


def dense_step(bench: Bench, network: str, compiled: str = "") -> Callable[[], None]:
    """Return a step of plain SGD over the weights; `compiled` is a mode of torch.compile."""
    model = fresh_model(bench, network)
    sgd = torch.optim.SGD(model.parameters(), LR, MOMENTUM)
    loss = loss_of(bench, torch.compile(model, mode=compiled) if compiled else model)

    def step() -> None:
        loss().backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)

    return step


def backward_alone(bench: Bench, network: str) -> Callable[[], None]:
    """Return the dense step without its optimiser."""
    model = fresh_model(bench, network)
    loss = loss_of(bench, model)

    def step() -> None:
        loss().backward()
        model.zero_grad(set_to_none=True)

    return step


def mined(bench: Bench, network: str, miner: str) -> tuple[nn.Module, Callable[[], None]]:
    """Return a model that Gem-Miner mines, and its step; `miner` is one of MINERS."""
    model = fresh_model(bench, network)
    gk.convert(model, scores=True)
    mining = gk.GemMiner(
        model, DENSITY, epochs=150, freeze_every=5, l2=L2, seed=0, fused=miner == FUSED
    )
    loss = loss_of(bench, model)

    def step() -> None:
        loss().backward()
        mining.step()

    return model, step


def authors_step(bench: Bench, network: str) -> Callable[[], None]:
    model = authors_network(fresh_model(bench, network))
    authors = AuthorsStep([one for one in model.modules() if isinstance(one, AuthorsMask)])
    loss = loss_of(bench, model)

    def step() -> None:
        authors.project()
        total = loss() + authors.penalty()
        authors.sgd.zero_grad(set_to_none=True)
        total.backward()
        authors.sgd.step()

    return step


def check_replay(bench: Bench, network: str, miner: str) -> Entry:
    """Check that captured Gem-Miner steps give the bits of eager ones."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        replayed = _after_steps(bench, network, miner, captured=True)
        eager, again = (_after_steps(bench, network, miner, captured=False) for _ in range(2))
    finally:
        cudnn.benchmark, cudnn.deterministic = before
    require_same(again, eager, "eager steps, repeated")
    require_same(replayed, eager, "replayed steps")
    return {"compared": len(eager)}


def _after_steps(bench: Bench, network: str, miner: str, *, captured: bool) -> list[Tensor]:
    """Return the state after the warm-up of a capture and three steps more, eager or replayed."""
    model, step = mined(bench, network, miner)
    call = bench.clock.captured(step) if captured else step
    for _ in range(3 if captured else bench.clock.warmups + 3):
        call()
    return list(model.state_dict().values())


def _check_logits(bench: Bench, network: str) -> None:
    """Compare the logits of masked layers with those of plain ones that have the zeros baked in."""
    model = fresh_model(bench, network)
    gk.convert(model, scores=True)
    plain = copy.deepcopy(model)
    gk.unconvert(plain)
    images, _ = _batch(bench)
    with torch.no_grad(), _autocast(bench):
        error = relative_error(model(images), plain(images))
    # Written so that NaN is refused.
    if not error <= CLOSE:
        raise WrongResult(f"{network}: logits of masked layers are {error:.1e} off the plain ones")


def fresh_model(bench: Bench, network: str, seed: int = 0) -> nn.Module:
    model = build(network, image_size=bench.shapes.image, seed=seed)
    return model.to(bench.device, memory_format=torch.channels_last).train()


def _batch(bench: Bench) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, count = bench.shapes.image, bench.shapes.batch
    images = torch.randn(count, 3, side, side, generator=generator).to(bench.device)
    labels = torch.randint(10, (count,), generator=generator).to(bench.device)
    return images.contiguous(memory_format=torch.channels_last), labels


def loss_of(bench: Bench, model: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """Return what computes the loss of `model` on one batch of noise, under autocast."""
    images, labels = _batch(bench)

    def loss() -> Tensor:
        with _autocast(bench):
            return F.cross_entropy(model(images), labels)

    return loss


def _autocast(bench: Bench) -> torch.autocast:
    return torch.autocast(bench.device, dtype=bench.narrow)
