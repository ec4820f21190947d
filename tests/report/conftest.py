"""A made-up race with the shape of a real one."""

from __future__ import annotations

import math
import random

import pytest

from gemkern.experiments.records import EpochRecord, Run

LAYERS = (
    "conv1",
    *(
        f"layer{stage}.{block}.conv{conv}"
        for stage in (1, 2, 3)
        for block in (0, 1, 2)
        for conv in (1, 2)
    ),
    "linear",
)
DENSITY = 0.0144
FINAL = {"gem-miner": 0.78, "imp": 0.76, "random": 0.61, "dense": 0.91}
STEP_MS = {"gem-miner": 21.0, "imp": 24.0, "random": 14.0, "dense": 23.0}


def make_race(
    seeds: int, rounds: int, round_epochs: int, finetune_epochs: int
) -> tuple[list[Run], list[EpochRecord]]:
    """gem-miner, imp, random and dense; Gem-Miner searches as long as finetuning takes."""
    find_epochs = {"gem-miner": finetune_epochs, "imp": rounds * round_epochs}
    runs, epochs = [], []
    for method in FINAL:
        for seed in range(seeds):
            one_run = _epochs(
                method, seed, find_epochs.get(method, 0), finetune_epochs, round_epochs
            )
            epochs += one_run
            runs.append(_run(method, seed, one_run))
    return runs, epochs


def _epochs(
    method: str, seed: int, find_epochs: int, finetune_epochs: int, round_epochs: int
) -> list[EpochRecord]:
    noise = random.Random(f"{method} {seed}")
    ends_at = 1.0 if method == "dense" else DENSITY
    records = []
    for index in range(find_epochs + finetune_epochs):
        finding = index < find_epochs
        epoch = index + 1 if finding else index - find_epochs + 1
        density = ends_at
        if finding:
            every = round_epochs if method == "imp" else 5
            density = ends_at ** (epoch // every * every / find_epochs)
        since_rewind = (epoch - 1) % round_epochs + 1 if finding and method == "imp" else epoch
        length = round_epochs if finding and method == "imp" else finetune_epochs
        ceiling = FINAL["dense"] - 0.15 * math.log(density) / math.log(DENSITY)
        if not finding:
            ceiling = FINAL[method]
        elif method == "gem-miner":
            ceiling = 0.7
        accuracy = ceiling - 0.5 * math.exp(-5 * since_rewind / length) + noise.gauss(0, 0.006)
        records.append(
            EpochRecord(
                method=method,
                seed=seed,
                phase="find" if finding else "finetune",
                epoch=epoch,
                density=density,
                loss=2 * (1 - accuracy),
                validation_accuracy=accuracy,
                seconds=(index + 1) * 0.1 * STEP_MS[method] * (1 + 0.02 * seed),
                step_ms=STEP_MS[method] * (1 + 0.02 * seed),
            )
        )
    return records


def _run(method: str, seed: int, epochs: list[EpochRecord]) -> Run:
    noise = random.Random(f"layers {method} {seed}")
    find = [record.seconds for record in epochs if record.phase == "find"]
    density = epochs[-1].density
    tilt = {"gem-miner": 1.3, "imp": 0.8}.get(method, 0.0)
    layer_density = {
        name: min(
            1.0, density * math.exp(tilt * (2 - i / 5)) * math.exp(noise.gauss(0, 0.1 * tilt))
        )
        for i, name in enumerate(LAYERS)
    }
    if method == "gem-miner":
        layer_density[LAYERS[-3]] = 0.0
    return Run(
        method=method,
        seed=seed,
        density=density,
        weights_left=round(268336 * density),
        accuracy_before=epochs[len(find) - 1].validation_accuracy if find else 0.1,
        accuracy_after=epochs[-1].validation_accuracy,
        find_epochs=len(find),
        finetune_epochs=len(epochs) - len(find),
        find_seconds=find[-1] if find else 0.0,
        finetune_seconds=epochs[-1].seconds - (find[-1] if find else 0.0),
        step_ms=epochs[0].step_ms,
        layer_density=layer_density,
    )


@pytest.fixture(scope="session")
def race() -> tuple[list[Run], list[EpochRecord]]:
    return make_race(seeds=2, rounds=3, round_epochs=4, finetune_epochs=6)
