"""One run of a comparison, and many of them side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from benchmarks.comparison import plan
from benchmarks.comparison.images import halved
from gemkern.data import Dataset
from gemkern.experiments.job import job
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.work import Work
from gemkern.tickets import Ticket

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A method to run, and the checks of its ticket with it.

    Attributes:
        table: "tries", "steps" or "seconds": what the run is for.
        chosen: settings, over those of the plan.
        checks: methods that are made of the ticket.
    """

    table: str
    method: str
    density: float
    seed: int
    chosen: Mapping[str, Any]
    epochs: int = plan.EPOCHS
    checks: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what tells the first row of this task from all others."""
        return key(vars(self))


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from all others."""
    return (*(row[name] for name in ("table", "method", "density", "seed")), str(row["chosen"]))


def runs_of(rows: Iterable[Row], table: str, method: str, density: float) -> list[Row]:
    """Return the runs of a method at a density; the dense network has one for all."""
    mine = [row for row in rows if row["table"] == table and row["method"] == method]
    return [row for row in mine if row["density"] == density or method == "dense"]


def best_of(tries: Iterable[Row]) -> Row:
    """Return the try that was best on the validation split."""
    return max(tries, key=lambda row: row["validation_accuracy"])


def run_all(tasks: Iterable[Task], data_dir: str, processes: int) -> Iterator[list[Row]]:
    """Run tasks, so many at a time; yield the rows of each as it ends."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, partial(torch.set_num_threads, 1)) as pool:
        for done in as_completed([pool.submit(run, task, data_dir) for task in tasks]):
            yield done.result()


def run(task: Task, data_dir: str) -> list[Row]:
    """Run a task; return the row of its method and of each of its checks."""
    torch.set_flush_denormal(True)
    settings = plan.settings(task.method, task.density, data_dir, task.chosen, task.epochs)
    laboratory = Laboratory(settings, data=_images(data_dir))
    tickets: list[Ticket] = []
    rows = [_row(task, task.method, laboratory, tickets, ())]
    rows += [_row(task, check, laboratory, [], tickets) for check in task.checks]
    return rows


@cache
def _images(data_dir: str) -> Dataset:
    return halved(data_dir, plan.TRAIN_LIMIT)


def _row(
    task: Task, method: str, laboratory: Laboratory, found: list[Ticket], given: Iterable[Ticket]
) -> Row:
    records: list[EpochRecord] = []
    work = Work(
        job(laboratory.settings, method, [task.seed]),
        laboratory,
        list(given),
        records.append,
        lambda seed, ticket: found.append(ticket),
        # Of one thread: other work on the machine does not stretch it.
        clock=time.process_time,
    )
    (one,) = work.run()
    return {
        "table": task.table,
        "method": method,
        "density": task.density,
        "seed": task.seed,
        "chosen": dict(task.chosen),
        "epochs": task.epochs,
        "validation_accuracy": records[-1].validation_accuracy,
        **{
            name: getattr(one, name)
            for name in (
                "weights_left", "accuracy_before", "accuracy_after", "find_epochs",
                "finetune_epochs", "find_seconds", "finetune_seconds",
            )
        },
    }  # fmt: skip
