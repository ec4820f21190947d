"""Tune every method with equal tries, then race all at equal steps and at equal seconds.

python -m benchmarks.comparison tune --data-dir DIR       choose settings, on the validation split
python -m benchmarks.comparison steps --data-dir DIR      as many steps in all for each method
python -m benchmarks.comparison seconds --data-dir DIR    as many seconds as Gem-Miner takes

ResNet-20 on Fashion-MNIST at half its resolution (see `plan`). Each adds its rows to
`benchmarks/results/comparison-MACHINE.json` as runs end, and leaves out what is there. Runs go side
by side, a thread each; their seconds are those of the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any

import typer
from tqdm import tqdm

from benchmarks import result_files
from benchmarks.comparison import plan
from benchmarks.comparison.running import Row, Task, best_of, key, run_all, runs_of
from benchmarks.race_report import total_seconds

# Of the seeds of the tables; tries have one of their own.
SEEDS, SEED_OF_TRIES = 3, 100

app = typer.Typer(help=__doc__, add_completion=False)
DataDir = Annotated[str, typer.Option(help="Folder of Fashion-MNIST.")]
Processes = Annotated[int, typer.Option(min=1, help="Runs side by side.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")]


@app.command()
def tune(data_dir: DataDir, processes: Processes = 2) -> None:
    """Run the tries of every method."""
    tasks = [
        Task("tries", method, plan.DENSITY_OF_TRIES, SEED_OF_TRIES, chosen)
        for method in plan.GRIDS
        for chosen in plan.tries(method)
    ]
    _run(tasks, _kept(), data_dir, processes)


@app.command()
def steps(data_dir: DataDir, processes: Processes = 2, seeds: Seeds = SEEDS) -> None:
    """Race all at equal steps."""
    rows = _kept()
    tasks = [_task("steps", rows, *one, plan.EPOCHS) for one in _contenders(seeds)]
    _run(tasks, rows, data_dir, processes)


@app.command()
def seconds(data_dir: DataDir, processes: Processes = 2, seeds: Seeds = SEEDS) -> None:
    """Race all with as many epochs as fit into the seconds of Gem-Miner at equal steps."""
    rows = _kept()
    tasks = [
        _task("seconds", rows, *one, epochs_in_time(rows, *one[:2])) for one in _contenders(seeds)
    ]
    _run(tasks, rows, data_dir, processes)


def chosen(rows: Sequence[Row], method: str) -> dict[str, Any]:
    """Return what was best for a method on the validation split, of its tries."""
    tries = runs_of(rows, "tries", method, plan.DENSITY_OF_TRIES)
    assert len(tries) == plan.TRIES, f"tune first: {method} has {len(tries)} tries"
    best: dict[str, Any] = best_of(tries)["chosen"]
    return best


def epochs_in_time(rows: Sequence[Row], method: str, density: float) -> int:
    """Return how many epochs of a method take as long as Gem-Miner's at equal steps."""
    wanted, own = (
        fmean(map(total_seconds, runs_of(rows, "steps", one, density)))
        for one in ("gem-miner", method)
    )
    return max(2, round(wanted / own * plan.EPOCHS))


def _contenders(seeds: int) -> list[tuple[str, float, int]]:
    """Return methods, densities and seeds; the dense network has no density."""
    return [
        (method, density, seed)
        for seed in range(seeds)
        for density in plan.DENSITIES
        for method in plan.GRIDS
        if method != "dense" or density == plan.DENSITIES[0]
    ]


def _task(
    table: str, rows: Sequence[Row], method: str, density: float, seed: int, epochs: int
) -> Task:
    checks = plan.CHECKS if method == "gem-miner" else ()
    return Task(table, method, density, seed, chosen(rows, method), epochs, checks)


def _run(tasks: Sequence[Task], rows: list[Row], data_dir: str, processes: int) -> None:
    known = {key(row) for row in rows}
    left = [task for task in tasks if task.key not in known]
    with tqdm(total=len(left), unit="run") as bar:
        for found in run_all(left, data_dir, processes):
            rows += found
            _keep(rows)
            bar.set_postfix_str(_said(found[0]))
            bar.update()


def _said(row: Row) -> str:
    return f"{row['method']} {row['density']:g}: {100 * row['validation_accuracy']:.1f} %"


def _name() -> str:
    return result_files.named("comparison", result_files.used("cpu"))


def _kept() -> list[Row]:
    path = result_files.RESULTS / f"{_name()}.json"
    return result_files.kept(_name())["runs"] if path.exists() else []


def _keep(rows: Sequence[Row]) -> None:
    content = {
        **result_files.about("python -m benchmarks.comparison"),
        **result_files.TRAINED,
        "epochs": plan.EPOCHS,
        "epoch_steps": plan.STEPS,
        "train_limit": plan.TRAIN_LIMIT,
        "batch_size": plan.BATCH,
        "runs": sorted(rows, key=key),
    }
    result_files.keep(result_files.RESULTS, _name(), content)


if __name__ == "__main__":
    app()
