"""Race Gem-Miner against IMP and against cheap IMP: one loop, one density, several seeds.

python -m benchmarks.race                                                digits: two minutes
python -m benchmarks.race --preset fashion-mnist --data-dir DIR
python -m benchmarks.race --preset resnet20-1.44 --data-dir DIR          the paper's, on CIFAR-10

Contenders take turns, seed by seed, after a short race that is not timed: kernels are compiled
there. Seconds are those of training steps and of what ends an epoch; evaluation is left out. The
result file, `benchmarks/results/race-PRESET-MACHINE.json`, holds every run and its course; it is
written after each run, and --resume goes on with those that are missing. `python -m
benchmarks.readme` makes a table and a figure of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import race_report, result_files
from gemkern.errors import GemkernError
from gemkern.experiments.job import job
from gemkern.experiments.laboratory import Laboratory, matched_weights, rehearse
from gemkern.experiments.presets import resolve
from gemkern.experiments.records import EpochRecord, Run
from gemkern.experiments.settings import Settings
from gemkern.experiments.work import Work
from gemkern.tickets import imp_weights_left
from gemkern.tickets.imp import rewind_point

CHEAP = "cheap-imp"
# What races under which name.
METHODS = {"dense": "dense", "gem-miner": "gem-miner", "imp": "imp", CHEAP: "imp"}
# Steps of an epoch of the race that goes before.
FEW = 4
# Digits after the point of accuracies, densities, seconds and milliseconds in a course.
DIGITS = 5

Row = dict[str, Any]


def imp_rounds(settings: Settings, total: int) -> int:
    """Return how many times IMP prunes on its way to the density of all tickets."""
    density = matched_weights(settings, total) / total
    return len(imp_weights_left(total, density, settings.own["imp"].imp_prune))


def cheap(settings: Settings, total: int, steps: int) -> Settings:
    """Return settings under which IMP is cheap: its rounds last as long as Gem-Miner, all together.

    It prunes as often, as much at a time and to the same density as IMP does. A round has at least
    one epoch; where IMP rewinds to a step, this does, but to none later than half a round.

    Args:
        total: how many weights of the network can be masked.
        steps: of an epoch.
    """
    rounds = imp_rounds(settings, total)
    epochs = max(1, round(settings.own["gem-miner"].mine_epochs / rounds))
    point = rewind_point(settings.own["imp"].imp_rewind)
    if isinstance(point, int):
        point = min(point, epochs * steps // 2)
    return settings.changed(imp_epochs=epochs, imp_rewind=str(point))


def laboratories(settings: Settings) -> dict[str, Laboratory]:
    """Return where each contender is trained, by its name.

    Raises:
        GemkernError: the settings do not fit together, or the data cannot be read.
    """
    common = Laboratory(settings)
    steps = len(common.data.training(settings.batch_size, seed=0))
    short = Laboratory(cheap(settings, common.maskable_weights, steps))
    for laboratory in (common, short):
        rehearse(laboratory, [*dict.fromkeys(METHODS.values())])
    return {name: short if name == CHEAP else common for name in METHODS}


def run(
    where: Mapping[str, Laboratory],
    seeds: Sequence[int],
    done: Container[tuple[str, int]] = (),
) -> Iterator[Row]:
    """Let all contenders find and finetune a ticket for each seed; yield a row for each pair.

    A row holds the fields of a `Run`, the milliseconds of a step of finetuning (the median over
    epochs of the mean step) and the `course` of the run, epoch by epoch.

    Args:
        done: contenders with seeds, which are left out.
    """
    for seed in seeds:
        for name, method in METHODS.items():
            if (name, seed) not in done:
                records: list[EpochRecord] = []
                work = Work(
                    job(where[name].settings, method, [seed]), where[name], on_epoch=records.append
                )
                (one,) = work.run()
                yield _row(replace(one, method=name), records)


def warm_up(laboratory: Laboratory) -> None:
    """Run a race of a few steps and forget it: what is made once is not made in a timed one."""
    settings = laboratory.settings
    short = settings.changed(
        train_limit=min(len(laboratory.data.training(1, seed=0)), FEW * settings.batch_size),
        mine_epochs=3,
        freeze_every=1,
        finetune_epochs=1,
        imp_epochs=1,
        imp_prune=0.9,
        imp_rewind="init",
    )
    for _ in run(laboratories(short), [0]):
        pass


def resumed(path: Path, config: Mapping[str, Any]) -> list[Row]:
    """Return the rows that an earlier race of the same settings left in a result file, if any.

    Raises:
        GemkernError: they are of other settings or of another commit.
    """
    if not path.exists():
        return []
    found = result_files.kept(path.stem, path.parent)
    if (found["config"], found["commit"]) != (config, result_files.commit()):
        raise GemkernError(
            f"{path} was raced with other settings or another commit: leave out --resume"
        )
    return found["runs"]


def _row(one: Run, records: Sequence[EpochRecord]) -> Row:
    tuning = [record.step_ms for record in records if record.phase == "finetune"]
    course = {
        field: [round(getattr(record, field), DIGITS) for record in records]
        for field in ("density", "validation_accuracy", "seconds", "step_ms")
    }
    return {**asdict(one), "finetune_step_ms": statistics.median(tuning), "course": course}


def main(
    preset: Annotated[str, typer.Option(help="Named settings: see gemkern race.")] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="Folder that holds the data.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")] = 3,
    budget: Annotated[float, typer.Option(help="Factor on every number of epochs.")] = 1.0,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: --set score_lr=0.05.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="In the file's name, for PRESET.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the runs that are there.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
) -> None:
    """Race, print and keep."""
    torch.set_flush_denormal(True)
    console = Console(width=120)
    try:
        settings = resolve(preset, {"data_dir": data_dir, "device": device}, assign or ())
        settings = settings.scaled(budget)
        where = laboratories(settings)
        config = {**settings.as_dict(), "data_dir": None}
        device_used = result_files.used(settings.device)
        path = out / f"{result_files.named(f'race-{name or preset}', device_used)}.json"
        rows = resumed(path, config) if resume else []
    except GemkernError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    content = {
        **result_files.about(result_files.command("benchmarks.race")),
        **result_files.TRAINED,
        "config": config,
        "cheap_imp_epochs": where[CHEAP].settings.own["imp"].imp_epochs,
    }
    warm_up(where["dense"])
    for row in run(where, range(seeds), {(row["method"], row["seed"]) for row in rows}):
        rows.append(row)
        rows.sort(key=lambda row: (list(METHODS).index(row["method"]), row["seed"]))
        result_files.keep(out, path.stem, {**content, "runs": rows})
        seconds, accuracy = race_report.total_seconds(row), 100 * row["accuracy_after"]
        console.print(
            f"seed {row['seed']}, {row['method']}: {accuracy:.2f} % after {seconds:.1f} s"
        )
    console.print(race_report.table(rows))
    console.print(f"kept in {path}")


if __name__ == "__main__":
    typer.run(main)
