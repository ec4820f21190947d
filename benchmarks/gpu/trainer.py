"""The package's training loop, from Python and captured, for one seed and for several at once.

The whole of it: images that lie on the device as bytes, are augmented there, and learnt from.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

import gemkern as gk
from benchmarks.gpu.baselines import L2
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.captures import watched
from benchmarks.gpu.exactness import WrongResult, require_same
from benchmarks.gpu.result import Entry
from benchmarks.gpu.step import DENSITY, fresh_model, setting
from benchmarks.gpu.timing import CAPTURED, NO_GRAPHS, NotMeasured, summary
from gemkern.data import Augment, Dataset, Split
from gemkern.tickets import smart_ratio_ticket
from gemkern.training import EpochStats, Method, Trainee, WeightTraining, graphs, train_together

SECTION = "trainer"
EAGER = "eager"
MINING, FINETUNING = "gem-miner", "finetuning"
ALONE, TOGETHER = "alone", "together"
CLASSES = 10
# Of a run: its first epoch holds warm-up and capture, the others are timed.
EPOCHS = 4
# Rounds of runs, and the seconds after which no other begins.
ROUNDS, SECONDS = 3, 18.0
# From Python a step takes milliseconds, and an epoch of few steps says as much.
EAGER_STEPS, CHECKED_STEPS = 50, 8
HOW = (
    "noise on the device, cropped and flipped; an epoch's seconds over its steps and seeds; runs "
    "of {} epochs in turn, without the first of each, which holds warm-up and capture"
)


@dataclass(frozen=True)
class Way:
    """A contender: how many seeds train at once, captured or not, and its longest epoch."""

    seeds: int = 1
    graph: bool = True
    steps: int | None = None

    def steps_of(self, images: int, batch: int) -> int:
        """Return how many steps an epoch takes where there are so many images."""
        return min(images // batch, self.steps or images)


WAYS = {
    ALONE: {EAGER: Way(graph=False, steps=EAGER_STEPS), CAPTURED: Way()},
    TOGETHER: {
        CAPTURED: Way(),
        **{f"{CAPTURED}, {seeds} seeds": Way(seeds) for seeds in (2, 4)},
    },
}


def plan(bench: Bench) -> Iterator[Row]:
    for trained, method in product(WAYS, METHODS):
        yield Row(_measure, network=bench.shapes.models[-1], method=method, trained=trained)


def _measure(bench: Bench, network: str, method: str, trained: str) -> Entry:
    ways = dict(WAYS[trained])
    without: dict[str, str] = {}
    if graphs.graphs_on(torch.device(bench.device)) is None:
        without = {name: NO_GRAPHS for name, way in ways.items() if way.graph}
        ways = {name: way for name, way in ways.items() if not way.graph}
    if not ways:
        raise NotMeasured(NO_GRAPHS)
    epochs = min(EPOCHS, 1 + bench.clock.repetitions)
    school = School(bench, network, METHODS[method], synthetic(bench), epochs)
    check(school, ways)
    entry = {**setting(bench), "how": HOW.format(epochs), **race(school, ways)}
    return {**entry, "without": without} if without else entry


def _mining(model: nn.Module, seed: int, epochs: int) -> Method:
    gk.convert(model, scores=True)
    # One freeze: most epochs end without, as in a search of the paper's length.
    every = epochs // 2
    return gk.GemMiner(model, DENSITY, epochs, every, l2=L2, seed=seed, fused=True)


def _finetuning(model: nn.Module, seed: int, epochs: int) -> Method:
    gk.convert(model)
    smart_ratio_ticket(model, DENSITY, seed=seed).apply(model)
    return WeightTraining(model, epochs, lr=0.01)


Teacher = Callable[[nn.Module, int, int], Method]
METHODS: dict[str, Teacher] = {MINING: _mining, FINETUNING: _finetuning}


@dataclass(frozen=True)
class Run:
    """What training left: models and epochs by seed, and how many steps were replays."""

    models: list[nn.Module]
    epochs: list[list[EpochStats]]
    replays: int

    def learnt(self) -> list[list[Tensor]]:
        """Return, by seed, the loss of each epoch and the state at the end."""
        return [
            [torch.tensor([epoch.loss for epoch in epochs], dtype=torch.float64),
             *model.state_dict().values()]
            for model, epochs in zip(self.models, self.epochs, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True)
class School:
    """Trains fresh models of one network, by one method, on one data set, so many epochs."""

    bench: Bench
    network: str
    method: Teacher
    dataset: Dataset
    epochs: int

    def steps(self, way: Way) -> int:
        return way.steps_of(len(self.dataset.train), self.bench.shapes.batch)

    def train(self, way: Way, first_seed: int = 0) -> Run:
        """Train `way.seeds` models from `first_seed` on.

        Raises:
            WrongResult: other steps were replayed than those that should have been.
        """
        batch, steps = self.bench.shapes.batch, self.steps(way)
        images, labels = self.dataset.train.images, self.dataset.train.labels
        shown = Split(images[: steps * batch], labels[: steps * batch])
        trainees, epochs = [], []
        for seed in range(first_seed, first_seed + way.seeds):
            model, stats = fresh_model(self.bench, self.network, seed), list[EpochStats]()
            method = self.method(model, seed, self.epochs)
            trainees.append(Trainee(model, method, seed, stats.append))
            epochs.append(stats)
        with watched() as watch:
            train_together(
                trainees,
                replace(self.dataset, train=shown),
                batch_size=batch,
                autocast=self.bench.narrow,
                graph=way.graph,
            )
        wanted = self.epochs * steps - graphs.WARM_UPS if way.graph else 0
        if watch.replays != wanted:
            why = "; ".join(watch.warnings) or "no warning says why"
            raise WrongResult(f"{watch.replays} steps were replayed, not {wanted} ({why})")
        return Run([trainee.model for trainee in trainees], epochs, watch.replays)


def synthetic(bench: Bench) -> Dataset:
    """Return noise of the size of CIFAR-10, on the device."""
    generator = torch.Generator().manual_seed(0)
    count, side = bench.shapes.images, bench.shapes.image
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    split = Split(images, labels).to(bench.device)
    augment = Augment(crop_padding=4, flip=True)
    return Dataset("noise", CLASSES, split, split, split, (0.5,) * 3, (0.29,) * 3, augment)


def check(school: School, ways: Mapping[str, Way]) -> None:
    """Check that every seed learns to the bits of that seed alone, from Python.

    Raises:
        WrongResult: it does not, or it was not captured.
    """
    eager = Way(graph=False, steps=CHECKED_STEPS)
    most = max(way.seeds for way in ways.values())
    wanted = [school.train(eager, seed).learnt()[0] for seed in range(most)]
    for name, way in ways.items():
        got = school.train(replace(way, steps=CHECKED_STEPS)).learnt()
        require_same(got, wanted[: way.seeds], f"{name} training")


def race(school: School, ways: Mapping[str, Way]) -> Entry:
    """Return `times` of a step of one seed, by name in microseconds, and `epochs` by name.

    Of those: `steps`; `added_s`, the seconds by which a first one is longer for all seeds, their
    median; `replayed`, how many steps of a run were.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    added: dict[str, list[float]] = {name: [] for name in ways}
    replayed: dict[str, int] = {}
    rounds = min(ROUNDS, school.bench.clock.repetitions)
    deadline = time.perf_counter() + min(SECONDS, school.bench.left())
    for done in range(rounds):
        if done and time.perf_counter() > deadline:
            break
        for name, way in ways.items():
            run = school.train(way)
            first, *later = (epoch.seconds for epoch in run.epochs[0])
            samples[name] += [1e6 * seconds / school.steps(way) for seconds in later]
            added[name].append(way.seeds * (first - statistics.median(later)))
            replayed[name] = run.replays
    epochs = {
        name: {
            "steps": school.steps(way),
            "added_s": round(statistics.median(added[name]), 3),
            "replayed": replayed[name],
        }
        for name, way in ways.items()
    }
    return {"times": {name: summary(taken) for name, taken in samples.items()}, "epochs": epochs}
