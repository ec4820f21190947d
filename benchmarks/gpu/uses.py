"""What a GPU compiles: every launcher called as the sections call it, on tensors of a CPU.

A use is launched inside `dry_launches` and `served_by_gpu`. Networks are those of the sections, on
few images: no kernel of masks or scores knows how many there are. Products have no numbers at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from benchmarks.gpu import (
    correctness,
    elementwise,
    graphs,
    products,
    sanitize,
    selection,
    shapes,
    step,
    traffic,
    trainer,
)
from benchmarks.gpu.baselines import random_state
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.correctness import MASKS, MODELS, MODES, cases, gpu_module, random_layers
from benchmarks.gpu.exactness import copied
from benchmarks.gpu.layers import PASSES, WAYS, Case, run, tf32
from benchmarks.gpu.result import Result
from benchmarks.gpu.timing import WallClock
from benchmarks.traffic import WEIGHT_OPERATORS, over_weights
from gemkern.ops import dispatch
from gemkern.training import weights

NETWORK = "resnet20"
IMAGES = 2
# As many steps as a miner takes until it computes with what it has written, and epochs to a freeze.
STEPS, EPOCHS = 3, 4


class Use(NamedTuple):
    """A use of launchers: its section, what it is of, and what launches."""

    section: str
    name: str
    launch: Callable[[], object]


def uses(bench: Bench) -> Iterator[Use]:
    """Yield what the first call's sections launch, then what the others do."""
    yield from _masks(bench)
    yield from _networks(bench)
    yield from _steps(bench)
    yield from _products(bench)


@contextmanager
def served_by_gpu() -> Iterator[None]:
    """Let every operator be served by its Triton kernel, and weights train as on a CUDA device."""
    misplaced = dispatch._misplaced

    def anywhere(backend: str, device: str, named: bool) -> str:
        return "" if backend == "gpu" else misplaced(backend, device, named)

    dispatch._choose.cache_clear()
    try:
        with (
            mock.patch.dict(os.environ, {dispatch.VARIABLE: "gpu"}),
            mock.patch.object(dispatch, "_misplaced", anywhere),
            mock.patch.object(weights, "on_cuda", return_value=True),
        ):
            yield
    finally:
        dispatch._choose.cache_clear()


def dry_bench() -> Bench:
    """Return a bench of the sections' shapes on a CPU, in a GPU's dtypes."""
    full = shapes.full()
    networks = dict.fromkeys(full.networks, full.networks[NETWORK])
    few = replace(full, networks=networks, batch=IMAGES, images=IMAGES)
    return DryBench("cpu", few, WallClock(), Result(Path(os.devnull), {}), seconds=float("inf"))


class DryBench(Bench):
    """A bench on which nothing is computed: what it asks for is what a GPU is asked for."""

    @property
    def rehearsal(self) -> bool:
        return False


def _masks(bench: Bench) -> Iterator[Use]:
    def launch(operator: str, model: str) -> None:
        layers = random_layers(bench.shapes.layers, "cpu", bench.narrow, *MODELS[model])
        for given in MASKS[operator](layers):
            getattr(gpu_module(operator), operator)(*copied(given))

    for operator, model in product(MASKS, MODELS):
        yield Use(correctness.MASK_SECTION, f"{operator} {model}", partial(launch, operator, model))


def _networks(bench: Bench) -> Iterator[Use]:
    def on_state(call: Callable[..., object]) -> None:
        call(random_state(bench.shapes.networks[NETWORK], "cpu", bench.narrow))

    def move(operator: str) -> None:
        moving = over_weights(
            operator, NETWORK, bench.shapes.networks[NETWORK], "cpu", bench.narrow
        )
        getattr(gpu_module(operator), operator)(*moving.arguments)

    for name, call in graphs.CALLS.items():
        yield Use(graphs.SECTION, name, partial(on_state, call))
    for name, (ours, *_) in elementwise.OPERATORS.items():
        yield Use(elementwise.SECTION, name, partial(on_state, ours))
    for name in ("select_kth", "popup_weight"):
        yield Use(selection.SECTION, name, partial(on_state, graphs.CALLS[name]))
    for operator in WEIGHT_OPERATORS:
        yield Use(traffic.SECTION, operator, partial(move, operator))


def _steps(bench: Bench) -> Iterator[Use]:
    def mine(network: str, miner: str) -> None:
        _, take_step = step.mined(bench, network, miner)
        for _ in range(STEPS):
            take_step()

    def train(method: str) -> None:
        model = step.fresh_model(bench, bench.shapes.models[-1])
        learner = trainer.METHODS[method](model, 0, EPOCHS)
        loss = step.loss_of(bench, model)
        for _ in range(EPOCHS):
            loss().backward()
            learner.learn()
            learner.end_step()
            learner.end_epoch()

    for network, miner in product(bench.shapes.models, step.MINERS):
        yield Use(step.SECTION, f"{network} {miner}", partial(mine, network, miner))
    for method in trainer.METHODS:
        yield Use(trainer.SECTION, method, partial(train, method))


def _products(bench: Bench) -> Iterator[Use]:
    def launch(operator: str, way: str, rounded: bool, case: Case, dtype: torch.dtype) -> None:
        with tf32(rounded):
            run(operator, way, case.random("meta", dtype), case.geometry)

    def every(
        section: str, operator: str, rounded: bool, case: Case, dtype: torch.dtype
    ) -> Iterator[Use]:
        for way in WAYS if case.serves(operator) else ():
            call = partial(launch, operator, way, rounded, case, dtype)
            yield Use(section, f"{operator} {way} {case} {dtype} {rounded}", call)

    checked = cases(*bench.shapes.product)
    for operator, (dtype, rounded), case in product(PASSES, MODES.values(), checked):
        yield from every(correctness.PRODUCT_SECTION, operator, rounded, case, dtype)
    for operator, case in product(PASSES, cases(*sanitize.SIZE)):
        yield from every(sanitize.SECTION, operator, False, case, torch.bfloat16)
    sections = {products.SECTION: products.plan, products.FLOAT32: products.plan_float32}
    for section, plan in sections.items():
        for row in plan(bench):
            case, dtype = row.of["batch"].case(row.of["layer"]), products.DTYPES[row.of["dtype"]]
            yield from every(section, row.of["operator"], bool(case.geometry), case, dtype)
