"""A race from Python: on anybody's network and data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from gemkern.data import Data
from gemkern.experiments import own
from gemkern.experiments.job import MOST_SEEDS, plan
from gemkern.experiments.laboratory import Laboratory, as_data, rehearse
from gemkern.experiments.presets import resolve
from gemkern.experiments.race import check_resumed, run_in_turn
from gemkern.experiments.records import EpochRecord, Failure, Run, Saving
from gemkern.experiments.run_folder import CONFIG, RunFolder
from gemkern.experiments.settings import lengths
from gemkern.experiments.summary import summarise
from gemkern.numbers import whole_number
from gemkern.report import devices, markdown_table, versions
from gemkern.tickets import Ticket

Loaders = tuple[DataLoader[Any], DataLoader[Any]]


@dataclass(frozen=True)
class Race:
    """What a race came to; printed, it is its table.

    Attributes:
        runs: one for each method and seed, in the order of the methods.
        failures: the jobs that failed, and why.
        tickets: what was found, by method and seed.
        epochs: a record of every epoch.
        savings: what acceleration saved.
    """

    runs: list[Run]
    failures: list[Failure]
    tickets: dict[tuple[str, int], Ticket]
    epochs: list[EpochRecord]
    savings: list[Saving]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dictionary a method, means over seeds: `gemkern.experiments.summary.summarise`."""
        return summarise(self.runs)

    def __str__(self) -> str:
        return markdown_table(self.runs)


def race(
    build: Callable[..., nn.Module] | str,
    data: Data | Loaders | str,
    *,
    methods: Sequence[str] = ("dense", "gem-miner", "imp", "random"),
    density: float | None = None,
    seeds: int | Iterable[int] = 3,
    of: str | None = None,
    epochs: int | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    **settings: Any,
) -> Race:
    """Let methods find tickets of a network at one density, finetune them, and compare.

    Args:
        build: returns a network; called with those of classes, channels, image_size, seed, init and
            affine that its signature takes. Or the name of a network, or "package.module:function".
        data: a `gemkern.data.Dataset`; DataLoaders of training and test, or of training, test and
            validation, whose batches are pairs of inputs and class labels; or a name, as --data.
        methods: names in `gemkern.tickets.METHODS`.
        density: fraction of the maskable weights that remains.
        seeds: how many, or which.
        of: the method whose tickets are shuffled, reinitialised and drawn anew; Gem-Miner if None.
        epochs: of a search, of a round of IMP and of finetuning; None for the preset's.
        preset: named settings, as --preset.
        out: folder for results, tickets and checkpoints; None to keep nothing.
        resume: go on with the race in `out`.
        on_epoch: hears of each epoch that is trained now.
        settings: any other, by name, as --set.

    Raises:
        GemkernError: something does not fit together; a job that fails is in `failures`.
    """
    own_build = None if isinstance(build, str) else build
    own_data = None if isinstance(data, str) else as_data(data)
    chosen = {
        **lengths(epochs),
        **settings,
        "density": density,
        "model": build if isinstance(build, str) else own.name_of(build),
        "data": data if own_data is None else f"own:{own_data.name}",
    }
    resolved = resolve(preset, chosen)
    count = (
        range(whole_number("seeds", seeds, most=MOST_SEEDS))
        if not isinstance(seeds, Iterable)
        else seeds
    )
    chosen_seeds = [whole_number("a seed", seed, least=0) for seed in count]
    jobs = plan(resolved, methods, chosen_seeds, of)
    laboratory = Laboratory(resolved, data=own_data, build=own_build)
    rehearse(laboratory, methods)
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory() as path:
        if resume and os.path.exists(os.path.join(path, CONFIG)):
            folder = RunFolder.load(path)
            check_resumed(folder, jobs)
        else:
            config = {**resolved.as_dict({*methods, "gem-miner"}), "methods": list(methods)}
            folder = RunFolder.create(
                path,
                config={**config, "seeds": len(chosen_seeds)},
                command="gemkern.race",
                jobs=jobs,
                about={"versions": versions(), "devices": devices()},
            )
        run_in_turn(folder, laboratory, on_epoch=on_epoch)
        return Race(
            runs=folder.runs(),
            failures=folder.failures(),
            tickets={key: Ticket.load(file) for key, file in folder.tickets().items()},
            epochs=folder.epochs(),
            savings=folder.savings(),
        )
