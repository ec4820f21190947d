"""What the runs of a race come to: numbers, without a table around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from gemkern.errors import GemkernError
from gemkern.experiments.records import Run


def summarise(runs: Sequence[Run], reference: str = "imp") -> list[dict[str, Any]]:
    """One dictionary a method, in the order in which the methods first appear.

    Means over seeds. Accuracies and density are fractions; a `_std` is the sample standard
    deviation (n - 1), None for a single seed. A speedup is the mean seconds of `reference` over
    those of the method, for the search alone (`find_speedup`) and with finetuning
    (`total_speedup`); None where either of them took no time or `reference` was not raced.
    """
    rows = [_summary(method, of_method) for method, of_method in by_method(runs).items()]
    rival = next((row for row in rows if row["method"] == reference), None)
    for row in rows:
        for part in ("find", "total"):
            base = rival[f"{part}_seconds"] if rival else 0.0
            row[f"{part}_speedup"] = _ratio(base, row[f"{part}_seconds"])
    return rows


def paired_gain(runs: Sequence[Run], method: str, rival: str) -> tuple[float, float | None]:
    """How far `method` finishes above `rival`: mean and standard error over the seeds both ran.

    Fractions of the test set, after finetuning. The standard error is the sample standard
    deviation of the differences, seed by seed, over sqrt(n); None for a single seed.

    Raises:
        GemkernError: no seed was run with both.
    """
    differences = gains(runs, method, rival)
    if not differences:
        raise GemkernError(
            f"{method} and {rival} share no seed to compare; race both with the same seeds"
        )
    count = len(differences)
    return fmean(differences), stdev(differences) / math.sqrt(count) if count > 1 else None


def gains(runs: Sequence[Run], method: str, rival: str) -> list[float]:
    """Return the differences in final accuracy, seed by seed."""
    mine, theirs = (
        {run.seed: run.accuracy_after for run in runs if run.method == name}
        for name in (method, rival)
    )
    return [accuracy - theirs[seed] for seed, accuracy in mine.items() if seed in theirs]


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, in the order in which the methods first appear."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def _summary(method: str, runs: Sequence[Run]) -> dict[str, Any]:
    def mean(value: Callable[[Run], float]) -> float:
        return fmean(value(run) for run in runs)

    def std(value: Callable[[Run], float]) -> float | None:
        return stdev(value(run) for run in runs) if len(runs) > 1 else None

    return {
        "method": method,
        "seeds": [run.seed for run in runs],
        "density": mean(lambda run: run.density),
        "weights_left": mean(lambda run: run.weights_left),
        "accuracy_before": mean(lambda run: run.accuracy_before),
        "accuracy_before_std": std(lambda run: run.accuracy_before),
        "accuracy_after": mean(lambda run: run.accuracy_after),
        "accuracy_after_std": std(lambda run: run.accuracy_after),
        "find_epochs": mean(lambda run: run.find_epochs),
        "finetune_epochs": mean(lambda run: run.finetune_epochs),
        "find_seconds": mean(lambda run: run.find_seconds),
        "total_seconds": mean(lambda run: run.find_seconds + run.finetune_seconds),
        "step_ms": mean(lambda run: run.step_ms),
    }


def _ratio(base: float, seconds: float) -> float | None:
    return base / seconds if base > 0 and seconds > 0 else None
