"""The command line: `gemkern race | mine | imp | finetune | info`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tqdm import tqdm

from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.presets import resolve
from gemkern.experiments.race import finetune_tickets, race, total_epochs
from gemkern.experiments.records import EpochRecord, Saving
from gemkern.experiments.search import (
    Found,
    check_methods,
    mine,
    prune_iteratively,
    rehearse,
)
from gemkern.experiments.settings import Settings
from gemkern.experiments.warm_up import warm_up
from gemkern.nn import keep_freed_memory
from gemkern.report import (
    RunFolder,
    gain_table,
    info,
    race_figure,
    race_table,
    savings_table,
    settings_table,
)
from gemkern.tickets import Ticket
from gemkern.training.forms import CHOICES, MEASURE, NEVER

app = typer.Typer(
    help="Find lottery tickets in one training run, and race the ways to find them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A log has no width of its own: give it room for the widest table.
console = Console(width=None if sys.stdout.isatty() else 110)

Preset = Annotated[str | None, typer.Option(help="Named settings, such as resnet20-1.44.")]
Data = Annotated[
    str | None, typer.Option(help="digits, mnist, fashion-mnist, cifar10, cifar100 or folder.")
]
DataDir = Annotated[str | None, typer.Option(help="Folder that holds the data.")]
TrainLimit = Annotated[int | None, typer.Option(help="Training images to use, balanced by class.")]
Model = Annotated[str | None, typer.Option(help="Network, such as resnet8, resnet20 or vgg16.")]
Density = Annotated[float | None, typer.Option(help="Fraction of the weights to keep: 0.0144.")]
Epochs = Annotated[
    int | None, typer.Option(help="Epochs of the search, of a round of IMP and of finetuning.")
]
Budget = Annotated[float, typer.Option(help="Factor on every number of epochs.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Assign = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting: --set score_lr=0.05.")
]
Out = Annotated[Path, typer.Option(help="Folder for results, tickets and figures.")]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**31, help="Seed of the weights, the scores and the data order."),
]


@app.command("race")
def race_command(
    preset: Preset = None,
    data: Data = None,
    data_dir: DataDir = None,
    train_limit: TrainLimit = None,
    model: Model = None,
    density: Density = None,
    methods: Annotated[
        str,
        typer.Option(help="dense, gem-miner, imp, random, smart-ratio, shuffled, reinitialised."),
    ] = "dense,gem-miner,imp,random",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")] = 3,
    epochs: Epochs = None,
    budget: Budget = 1.0,
    device: Device = None,
    assign: Assign = None,
    out: Out = Path("runs/race"),
) -> None:
    """Find tickets by several methods at one density, finetune them, and compare.

    Each method starts from weights as its authors draw them: Gem-Miner from signed constants, IMP,
    smart ratio and dense training from Kaiming normal ones. --set init=NAME gives all the same
    start, --set imp_init=NAME one of them its own.
    """
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    check_methods(names)
    settings = _settings(locals(), assign, preset, epochs, budget)
    laboratory = _laboratory(settings)
    rehearse(laboratory)
    folder = _open(out, settings, methods=list(names), seeds=seeds)
    _warm_up(laboratory)

    def save(method: str, seed: int, ticket: Ticket) -> None:
        ticket.save(_ticket_path(out, method, seed))

    savings: list[Saving] = []
    epochs_in_all = total_epochs(laboratory, names, range(seeds))
    with _progress(epochs_in_all, folder) as on_epoch:
        runs = race(
            laboratory,
            names,
            range(seeds),
            on_epoch=on_epoch,
            on_ticket=save,
            on_saving=savings.append,
        )
    folder.finish(runs, savings)
    race_figure(runs, folder.epochs(), out / "race.png")
    console.print(race_table(runs))
    console.print(gain_table(runs))
    _print_savings(settings, savings, out)
    console.print(f"results, tickets and race.png are in {out}")


@app.command("mine")
def mine_command(
    preset: Preset = None,
    data: Data = None,
    data_dir: DataDir = None,
    train_limit: TrainLimit = None,
    model: Model = None,
    density: Density = None,
    epochs: Epochs = None,
    budget: Budget = 1.0,
    device: Device = None,
    seed: Seed = 0,
    assign: Assign = None,
    out: Out = Path("runs/mine"),
) -> None:
    """Find a ticket with Gem-Miner."""
    settings = _settings(locals(), assign, preset, epochs, budget)
    _search("gem-miner", settings, seed, out)


@app.command("imp")
def imp_command(
    preset: Preset = None,
    data: Data = None,
    data_dir: DataDir = None,
    train_limit: TrainLimit = None,
    model: Model = None,
    density: Density = None,
    epochs: Epochs = None,
    budget: Budget = 1.0,
    device: Device = None,
    seed: Seed = 0,
    assign: Assign = None,
    out: Out = Path("runs/imp"),
) -> None:
    """Find a ticket with iterative magnitude pruning."""
    settings = _settings(locals(), assign, preset, epochs, budget)
    _search("imp", settings, seed, out)


@app.command("finetune")
def finetune_command(
    ticket: Annotated[Path, typer.Argument(help="A *.ticket.safetensors file.")],
    preset: Preset = None,
    data: Data = None,
    data_dir: DataDir = None,
    train_limit: TrainLimit = None,
    epochs: Epochs = None,
    budget: Budget = 1.0,
    device: Device = None,
    seed: Seed = 0,
    assign: Assign = None,
    out: Out = Path("runs/finetune"),
) -> None:
    """Train the weights of a ticket, and test it."""
    loaded = Ticket.load(ticket)
    model, density = loaded.model, loaded.density
    settings = _settings(locals(), assign, preset, epochs, budget)
    laboratory = _laboratory(settings)
    folder = _open(out, settings, ticket=str(ticket), seed=seed)
    _warm_up(laboratory)
    savings: list[Saving] = []
    with _progress(settings.finetune_epochs, folder) as on_epoch:
        notebook = Notebook(loaded.method, seed, on_epoch, savings.append)
        (run,) = finetune_tickets(laboratory, [notebook], [Found(loaded)])
    folder.finish([run], savings)
    console.print(race_table([run]))
    _print_savings(settings, savings, out)
    console.print(f"results are in {out}")


@app.command("info")
def info_command() -> None:
    """Show versions, devices and backends, and why each backend can or cannot serve."""
    console.print(info())


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit code 2."""
    # Before any thread is started: threads inherit the state that `reproducible_numerics` sets.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    try:
        app()
    except GemkernError as error:
        print(f"gemkern: {error}", file=sys.stderr)
        sys.exit(2)


def _settings(
    options: dict[str, Any],
    assign: list[str] | None,
    preset: str | None,
    epochs: int | None,
    budget: float,
) -> Settings:
    fields = ("data", "data_dir", "train_limit", "model", "density", "device")
    chosen: dict[str, Any] = {field: options[field] for field in fields}
    lengths = dict.fromkeys(("mine_epochs", "finetune_epochs", "imp_epochs"), epochs)
    return resolve(preset, {**chosen, **lengths}, assign or ()).scaled(budget)


def _laboratory(settings: Settings) -> Laboratory:
    chosen = settings.accelerate
    return Laboratory(settings, None if chosen in CHOICES else RunFolder.load(chosen).records())


def _search(method: str, settings: Settings, seed: int, out: Path) -> None:
    laboratory = _laboratory(settings)
    rehearse(laboratory)
    folder = _open(out, settings, methods=[method], seed=seed)
    _warm_up(laboratory)
    savings: list[Saving] = []
    searches = {"gem-miner": mine, "imp": prune_iteratively}
    epochs = total_epochs(laboratory, [method], [seed]) - settings.finetune_epochs
    with _progress(epochs, folder) as on_epoch:
        notebook = Notebook(method, seed, on_epoch, savings.append)
        (found,) = searches[method](laboratory, [notebook])
    path = _ticket_path(out, method, seed)
    found.ticket.save(path)
    folder.finish([], savings)
    _print_savings(settings, savings, out)
    console.print(
        f"{method} kept {found.ticket.weights_left} weights ({100 * found.ticket.density:.2f} %) "
        f"after {notebook.epochs('find')} epochs and {notebook.seconds('find'):.1f} s: {path}"
    )


def _open(out: Path, settings: Settings, **what: Any) -> RunFolder:
    config = {**settings.as_dict(), **what}
    folder = RunFolder.create(out, config=config, command=shlex.join(["gemkern", *sys.argv[1:]]))
    console.print(settings_table(config))
    return folder


def _warm_up(laboratory: Laboratory) -> None:
    # Where they are compiled, a warning says so (`gemkern.kernels.cpu.compiling`).
    with console.status("making the CPU kernels ready"):
        warm_up(laboratory)


def _print_savings(settings: Settings, savings: list[Saving], out: Path) -> None:
    if settings.accelerate != NEVER:
        console.print(savings_table(savings))
    if settings.accelerate == MEASURE:
        console.print(f"for the same bits again, replay what was measured: --set accelerate={out}")


def _ticket_path(out: Path, method: str, seed: int) -> Path:
    return out / f"{method}-seed{seed}.ticket.safetensors"


@contextmanager
def _progress(epochs: int, folder: RunFolder) -> Iterator[Any]:
    # A terminal is redrawn; a log gets a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(total=epochs, unit="epoch", mininterval=interval) as bar:

        def on_epoch(record: EpochRecord) -> None:
            folder.append(record)
            where = f"seed {record.seed} {record.method} {record.phase}"
            density, validation = 100 * record.density, 100 * record.validation_accuracy
            bar.set_postfix_str(
                f"{where}: density {density:.2f} %, validation {validation:.1f} %", refresh=False
            )
            bar.update()

        yield on_epoch
