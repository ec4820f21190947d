"""What a run leaves behind: its configuration, one line an epoch, and its results."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Run, Saving
from gemkern.files import write_atomically
from gemkern.report.console import summarise
from gemkern.report.environment import devices, versions

CONFIG = "config.json"
EPOCHS = "epochs.jsonl"
RESULTS = "results.json"

Record = TypeVar("Record", Run, EpochRecord)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: `config.json`, `epochs.jsonl` and, once finished, `results.json`.

    Files are valid JSON: a number that is not finite (the loss of a run that diverged) is written
    as null, which is read as NaN.
    """

    path: Path

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, config: Mapping[str, Any], command: str
    ) -> RunFolder:
        """Make the folder and write what was asked for, with what versions, on what devices.

        Raises:
            GemkernError: the folder already holds results, or cannot be written.
        """
        folder = cls(Path(path))
        for name in (EPOCHS, RESULTS):
            if (folder.path / name).exists():
                raise GemkernError(
                    f"{folder.path} already holds the {name} of another run; choose another --out"
                )
        content = {
            "command": command,
            "config": config,
            "versions": versions(),
            "devices": devices(),
        }
        _write_json(folder.path / CONFIG, content)
        return folder

    def append(self, epoch: EpochRecord) -> None:
        """Add one line to `epochs.jsonl`, on its way to the disk when this returns.

        Raises:
            GemkernError: the file cannot be written.
        """
        path = self.path / EPOCHS
        line = json.dumps(_plain(asdict(epoch)), allow_nan=False)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise GemkernError(
                f"could not write {path}: {error.strerror or error}; "
                "free some space or choose another --out"
            ) from error

    def finish(self, runs: Sequence[Run], savings: Sequence[Saving] = ()) -> None:
        """Write `results.json`: every run, what they come to (`console.summarise`), and savings.

        Raises:
            GemkernError: the file cannot be written.
        """
        content = {
            "summary": summarise(runs),
            "runs": [asdict(run) for run in runs],
            "savings": [asdict(saving) for saving in savings],
        }
        _write_json(self.path / RESULTS, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder that `create` made at `path`.

        Raises:
            GemkernError: there is none.
        """
        folder = cls(Path(path))
        if not (folder.path / CONFIG).is_file():
            raise GemkernError(
                f"{folder.path} holds no {CONFIG}; name a folder that a run was told with --out"
            )
        return folder

    def runs(self) -> list[Run]:
        """The runs that `finish` wrote.

        Raises:
            GemkernError: `results.json` is missing (the run has not finished) or damaged.
        """
        return _read_runs(self.path / RESULTS)

    def records(self) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
        """How runs were accelerated (`gemkern.training.Forms`), by method, seed and phase.

        Raises:
            GemkernError: `results.json` is missing (the run has not finished) or damaged.
        """
        path = self.path / RESULTS
        try:
            return {
                (entry["method"], entry["seed"], entry["phase"]): list(entry["record"])
                for entry in json.loads(_read(path))["savings"]
            }
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(str(path), error) from error

    def epochs(self) -> list[EpochRecord]:
        """The epochs appended so far, in their order.

        Raises:
            GemkernError: `epochs.jsonl` is missing (no epoch has finished) or damaged.
        """
        return _read_epochs(self.path / EPOCHS)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plain(value: Any) -> Any:
    """`value` in JSON's own types: paths as strings, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read_runs(path: Path) -> list[Run]:
    text = _read(path)
    try:
        return [_record(Run, entry) for entry in json.loads(text)["runs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(str(path), error) from error


def _read_epochs(path: Path) -> list[EpochRecord]:
    epochs = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        try:
            epochs.append(_record(EpochRecord, json.loads(line)))
        except (ValueError, TypeError) as error:
            raise _damaged(f"line {number} of {path}", error) from error
    return epochs


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise GemkernError(
            f"could not read {path}: {error.strerror or error}; name the folder of a finished run"
        ) from error
    except UnicodeDecodeError as error:
        raise _damaged(str(path), error) from error


def _damaged(where: str, error: Exception) -> GemkernError:
    return GemkernError(f"{where} is damaged ({error}); restore it or run again")


def _record(kind: type[Record], entry: Any) -> Record:
    fields = get_type_hints(kind)
    if not isinstance(entry, dict) or entry.keys() != fields.keys():
        raise ValueError(f"expected the fields {', '.join(fields)}")
    return kind(**{name: _value(name, hint, entry[name]) for name, hint in fields.items()})


def _value(name: str, hint: Any, value: Any) -> Any:
    """`value` as the field `name` of type `hint` holds it."""
    if hint is float and value is None:
        return math.nan
    if get_origin(hint) is dict and isinstance(value, dict):
        _, entries = get_args(hint)
        return {key: _value(f"{name}.{key}", entries, entry) for key, entry in value.items()}
    if get_origin(hint) is Literal:
        fits = value in get_args(hint)
    else:
        # A float may be written without a point; Python takes true for an integer.
        kinds = {float: (float, int), int: (int,), str: (str,)}.get(hint, ())
        fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{name} cannot be {value!r}")
    return value
