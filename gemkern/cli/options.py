"""The options of commands that run something: those that all have, and those of methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gemkern.errors import GemkernError
from gemkern.experiments.job import MOST_SEEDS
from gemkern.experiments.logs import EVENTS, LOGS, summary_writer
from gemkern.experiments.presets import resolve
from gemkern.experiments.ray_engine import check_address, ray_package
from gemkern.experiments.settings import Settings, lengths
from gemkern.tickets import METHODS

# Settings of all methods that have an option of their own name.
NAMED = ("data", "data_dir", "train_limit", "model", "density", "device")
OWN = "settings of "

Preset = Annotated[str | None, typer.Option(help="Named settings, such as resnet20-1.44.")]
Epochs = Annotated[
    int | None, typer.Option(help="Epochs of the search, of a round of IMP and of finetuning.")
]
Budget = Annotated[float, typer.Option(help="Factor on every number of epochs.")]
Assign = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting: --set batch_size=64.")
]
Out = Annotated[Path, typer.Option(help="Folder for results, tickets and figures.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")]
Log = Annotated[str, typer.Option(help="jsonl, or tensorboard for its event files too.")]

ENGINES = ("process", "ray", "none")
Seeds = Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="How many seeds: 0, 1, ...")]
By = Annotated[str, typer.Option(help="process: here, in turn; ray: a cluster; none: only list.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; auto for that of this machine.")
]
Cpus = Annotated[float | None, typer.Option(min=0, help="CPUs that a job takes of a Ray node.")]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs; a fraction shares one.")]


@dataclass(frozen=True)
class Engine:
    """What a race was asked to be run by; None where nothing was said."""

    name: str
    address: str | None
    cpus_per_job: float | None
    gpus_per_job: float | None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise GemkernError(
                f"no engine is called {self.name!r}: give --engine {' or '.join(ENGINES)}"
            )
        if self.name != "ray" and self.given:
            raise GemkernError(
                f"{self.given[0]} is an option of --engine ray: give that too, or leave it out"
            )
        if self.gpus_per_job and self.gpus_per_job > 1 and self.gpus_per_job % 1:
            raise GemkernError(
                f"a job cannot have {self.gpus_per_job:g} GPUs: give --gpus-per-job a fraction of "
                "one, or a whole number"
            )
        if self.name == "ray":
            ray_package()
            check_address(self.address)

    @property
    def given(self) -> list[str]:
        """The options that were given, word by word."""
        options = {
            "--address": self.address,
            "--cpus-per-job": self.cpus_per_job,
            "--gpus-per-job": self.gpus_per_job,
        }
        said = [(name, str(value)) for name, value in options.items() if value is not None]
        return [word for pair in said for word in pair]


@dataclass(frozen=True)
class Asked:
    """What a command was asked for.

    Attributes:
        chosen: settings by name, those that were given.
        is_bare: nothing was, but for where the run and its data lie.
    """

    preset: str | None
    chosen: dict[str, Any]
    epochs: int | None
    budget: float
    assign: Sequence[str]
    out: Path
    resume: bool
    log: str

    def __post_init__(self) -> None:
        if self.log not in LOGS:
            raise GemkernError(f"no log is called {self.log!r}: give --log {' or '.join(LOGS)}")
        if self.log == EVENTS:
            summary_writer()

    @property
    def is_bare(self) -> bool:
        """Whether no setting was given, but for where the data lie."""
        given = {self.preset, self.epochs, *(self.chosen.keys() - {"data_dir"})} - {None}
        return not given and self.budget == 1 and not self.assign

    def settings(self, **fixed: Any) -> Settings:
        """Return the resolved settings.

        Raises:
            GemkernError: they do not fit together.
        """
        chosen = {**lengths(self.epochs), **fixed, **self.chosen}
        return resolve(self.preset, chosen, self.assign).scaled(self.budget)


def listed(text: str) -> tuple[str, ...]:
    """Return the names in an option, which stand between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def with_options(
    out: str, methods: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take `asked` as options: all commands', and one a setting of `methods`.

    Args:
        out: where results go if nothing is said.
        without: names of settings that the command knows from elsewhere.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        before = inspect.signature(command, eval_str=True).parameters.values()
        own = [one for one in before if one.name != "asked"]
        named = [_option(Settings, name) for name in NAMED if name not in without]
        # Methods may share settings: those are options of the first.
        owners = {
            one.name: method
            for method in reversed(list(methods))
            for one in fields(METHODS[method].settings)
        }
        of_methods = [
            _option(METHODS[method].settings, one.name, OWN + method)
            for method in methods
            for one in fields(METHODS[method].settings)
            if owners[one.name] == method
        ]
        common = [
            _parameter("preset", Preset, None),
            *named,
            _parameter("epochs", Epochs, None),
            _parameter("budget", Budget, 1.0),
            _parameter("assign", Assign, None),
            _parameter("out", Out, Path(out)),
            _parameter("resume", Resume, False),
            _parameter("log", Log, "jsonl"),
        ]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            settings = [one.name for one in (*named, *of_methods)]
            chosen = {name: given.pop(name) for name in settings}
            asked = Asked(
                chosen={name: value for name, value in chosen.items() if value is not None},
                assign=given.pop("assign") or (),
                **{name: given.pop(name) for name in ("preset", "epochs", "budget")},
                **{name: given.pop(name) for name in ("out", "resume", "log")},
            )
            command(asked=asked, **given)

        parameters = [*own, *common, *of_methods]
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [one.replace(kind=positional) for one in parameters]
        # Those without a default come first.
        parameters.sort(key=lambda one: one.default is not one.empty)
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return wrap


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _option(settings: type, name: str, panel: str | None = None) -> inspect.Parameter:
    (found,) = [one for one in fields(settings) if one.name == name]
    kind = get_type_hints(settings)[name]
    help = typer.Option(help=found.metadata["help"], rich_help_panel=panel)
    return _parameter(name, Annotated[kind | None, help], None)
