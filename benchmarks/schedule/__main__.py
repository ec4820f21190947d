"""The seconds of the paper's schedules, from steps at each density that a search visits.

python -m benchmarks.schedule --preset resnet20-1.44 --data-dir DIR     ten minutes on two cores
python -m benchmarks.schedule ... --check 0.1                           beside a run of every step

Gem-Miner (150 epochs, 29 freezes) and IMP (rounds of 150 epochs) go through all their densities on
the real data and network, but with --steps steps at each; a schedule's seconds are the sum over its
epochs of steps times the median step there, without evaluations. Each goes through them
accelerated, dense on our kernels, and in the way of the authors' code (`authors`); accelerated and
dense take turns, density by density. Keeps `benchmarks/results/schedule-PRESET-MACHINE.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import result_files
from benchmarks.schedule import authors
from benchmarks.schedule.report import AUTHORS, markdown
from benchmarks.schedule.walk import Visit, finetune, in_full, plain, shortened, walk
from gemkern.errors import GemkernError
from gemkern.experiments.job import job
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.presets import resolve
from gemkern.experiments.work import Work
from gemkern.tickets import Search
from gemkern.training.forms import MEASURE, NEVER

WAYS = {"accelerated": MEASURE, "dense": NEVER}
METHODS = ("gem-miner", "imp")
# A density in the middle, at which the authors' way is timed: its steps are dense at all.
AUTHORS_DENSITY = 0.2
Row = dict[str, Any]


def rows_of(laboratory: Laboratory, method: str, epochs: Sequence[int], steps: int) -> list[Row]:
    """Return a row for each way to run a method: its visits, and that of finetuning."""
    walks = {way: walk(laboratory, method, choice, steps) for way, choice in WAYS.items()}
    visits: dict[str, list[Visit]] = {way: [] for way in WAYS}
    found: dict[str, Search] = {}
    while len(found) < len(walks):
        for way, one in walks.items():
            seen = next(one)
            if isinstance(seen, Search):
                found[way] = seen
            else:
                visits[way].append(seen)
    return [
        {
            "method": method,
            "way": way,
            "find": [asdict(visit) for visit in in_full(visits[way], epochs)],
            "finetune": asdict(finetune(laboratory, found[way], choice, steps)),
        }
        for way, choice in WAYS.items()
    ]


def row_of_authors(laboratory: Laboratory, method: str, found: Sequence[Row], steps: int) -> Row:
    """Return the row of a method in the authors' way, over the epochs that it has in ours."""
    settings = laboratory.settings
    imp, gem_miner = settings.own["imp"], settings.own["gem-miner"]
    models = [laboratory.fresh_model(0, method) for _ in range(2)]
    rates = {"density": AUTHORS_DENSITY, "weight_decay": settings.weight_decay}
    if method == "imp":
        step = authors.pruning_step(models[0], lr=imp.imp_lr, **rates)
    else:
        step = authors.mining_step(models[0], AUTHORS_DENSITY, gem_miner.score_lr, gem_miner.l2)
    tuning = authors.finetuning_step(models[1], lr=settings.finetune_lr, **rates)
    times = plain(laboratory, step, steps)
    return {
        "method": method,
        "way": AUTHORS,
        "find": [{**visit, **times, "end_ms": 0.0} for visit in found[0]["find"]],
        "finetune": {**found[0]["finetune"], **plain(laboratory, tuning, steps)},
    }


def check(laboratory: Laboratory, budget: float, steps: int) -> dict[str, float]:
    """Return the seconds of a shorter search of Gem-Miner, by a walk and by every step."""
    short = laboratory.settings.scaled(budget)
    whole = Laboratory(short, data=laboratory.data)
    few, epochs = shortened(short)
    walked = walk(Laboratory(few, data=laboratory.data), "gem-miner", MEASURE, steps)
    visits = in_full([seen for seen in walked if isinstance(seen, Visit)], epochs["gem-miner"])
    count = len(whole.data.training(short.batch_size, seed=0))
    seconds = sum(visit.epochs * count * visit.ms + visit.end_ms for visit in visits) / 1e3
    work = Work(job(short, "gem-miner", [0], ("find",)), whole)
    work.run()
    return {"budget": budget, "walked": seconds, "every_step": work.courses[0].seconds("find")}


def main(
    data_dir: Annotated[str, typer.Option(help="Folder that holds the data.")],
    preset: Annotated[
        str, typer.Option(help="Named settings: see gemkern race.")
    ] = "resnet20-1.44",
    steps: Annotated[int, typer.Option(min=10, help="At each density.")] = 40,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    check_budget: Annotated[
        float | None, typer.Option("--check", help="Run every step of this part of the epochs too.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = result_files.RESULTS,
) -> None:
    """Walk, print and keep."""
    torch.set_flush_denormal(True)
    try:
        settings = resolve(preset, {"data_dir": data_dir, "device": device})
        few, epochs = shortened(settings)
        laboratory = Laboratory(few)
    except GemkernError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    rows = []
    for method in METHODS:
        ours = rows_of(laboratory, method, epochs[method], steps)
        rows += [*ours, row_of_authors(laboratory, method, ours, steps)]
    content: Row = {
        **result_files.about(result_files.command("benchmarks.schedule")),
        **result_files.TRAINED,
        "preset": preset,
        "steps_an_epoch": len(laboratory.data.training(settings.batch_size, seed=0)),
        "imp_short_epochs": settings.own["imp-short"].imp_short_epochs,
        "rows": rows,
    }
    if check_budget is not None:
        content["check"] = check(Laboratory(settings, data=laboratory.data), check_budget, steps)
    name = result_files.named(f"schedule-{preset.replace('.', '-')}", result_files.used(few.device))
    path = result_files.keep(out, name, content)
    Console(width=120).print(markdown(content), markup=False)
    typer.echo(f"kept in {path}")


if __name__ == "__main__":
    typer.run(main)
