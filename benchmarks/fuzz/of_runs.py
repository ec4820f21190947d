"""Fuzzers of settings, of jobs, and of the folders of runs."""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from rich.console import Console

from benchmarks.fuzz.child import Wrong, reading
from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.laying import STRANGE, lay
from benchmarks.fuzz.mutations import (
    ODD,
    TEXTS,
    Change,
    Edit,
    changed,
    changes,
    edited,
    edits,
    text_of,
)
from gemkern.cli.looks import shown
from gemkern.experiments.job import job, plan
from gemkern.experiments.job_folder import JobFolder
from gemkern.experiments.presets import PRESETS, resolve
from gemkern.experiments.race import check_resumed
from gemkern.experiments.records import EpochRecord, Run, Saving
from gemkern.experiments.run_folder import RunFolder
from gemkern.experiments.settings import Settings, kinds, settings_among
from gemkern.report import draw_race, savings_table, settings_table
from gemkern.training.forms import read_choice

NAMES = tuple(kinds())


class Asked(NamedTuple):
    """Settings as they stand on a command line."""

    preset: str | None
    assignments: list[str]


def assignment_inputs() -> st.SearchStrategy[Asked]:
    """Return texts for --set: names that there are, mostly, and any value."""
    name = st.sampled_from((*NAMES, "init")) | st.sampled_from(TEXTS)
    number = st.integers(-2, 10**7).map(str) | st.floats().map(str)
    word = st.sampled_from((
        "true", "No", "auto", "adam", "cosine", "init", "a.b:c", "cuda:0", "cpu:1", "meta", "٣",
        "1_000", " 7 ", "0x10", "1e400", 5000 * "9", *TEXTS, *PRESETS,
    ))  # fmt: skip
    value = number | word | st.text(max_size=5)
    texts = st.builds(
        lambda name, sign, value: f"{name}{sign}{value}", name, st.sampled_from("==== "), value
    )
    return st.builds(
        Asked, st.none() | st.sampled_from((*PRESETS, *TEXTS)), st.lists(texts, max_size=2)
    )


def try_assignments(value: Asked, folder: Path) -> None:
    """Resolve the settings, and show them."""
    with reading():
        settings = resolve(value.preset, {}, value.assignments)
    _check_kinds(settings)
    _print(settings_table(settings.as_dict()))


def settings_inputs() -> st.SearchStrategy[dict[str, Any]]:
    """Return settings as the file of a job has them."""
    return st.dictionaries(
        st.sampled_from(NAMES) | st.sampled_from(("own", "self", "x")), ODD, max_size=2
    )


def try_settings(value: dict[str, Any], folder: Path) -> None:
    """Read the settings out of a file."""
    lay(folder, {"job.json": text_of(_job() | {"settings": _job()["settings"] | value}).encode()})
    with reading():
        settings = Settings.of(JobFolder(folder).job().settings)
    _check_kinds(settings)


def _check_kinds(settings: Settings) -> None:
    """Check that every setting is of its kind."""
    for name, value in settings.as_dict().items():
        kind = kinds()[name]
        # Python takes true for an integer; an integer is a float.
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise Wrong(f"{name} is {value!r} where {kind} belongs")


def job_inputs() -> st.SearchStrategy[list[Change]]:
    """Return what becomes of the file of a job."""
    return changes(2)


def try_job(value: list[Change], folder: Path) -> None:
    """Read the job, and make its folder."""
    lay(folder, {"job.json": text_of(changed(_job(), value)).encode()})
    with reading():
        own = JobFolder(folder).job()
        own.name, own.hash, own.needs  # noqa: B018
        JobFolder(folder).state(), JobFolder(folder).given(), JobFolder(folder).tickets()
    run = RunFolder(folder / "run")
    with reading(inside=run.path):
        run.folder_of(own)


@functools.cache
def _job() -> dict[str, Any]:
    return job(Settings(), "gem-miner", [0, 1]).as_dict()


def _epoch(method: str, seed: int, epoch: int) -> EpochRecord:
    return EpochRecord(method, seed, "finetune", epoch, 0.1, 0.5, 0.25 * epoch, epoch, 2.0)


def _result(method: str, seed: int) -> tuple[Run, Saving]:
    layers = {"conv": 0.5, "classifier": 0.0}
    run = Run(method, seed, 0.1, 10, 0.2, 0.5 + 0.1 * seed, 0, 2, 0.0, 2.0, 2.0, layers)
    record = [{"step": 0, "compressed": ["conv"], "ms": {"dense": 2.0}}]
    return run, Saving(method, seed, "finetune", 8, 2.0, 1.0, record)


@functools.cache
def _run_files() -> dict[str, bytes]:
    """Return the files of a run: two jobs that have finished, one that failed, one that waits."""
    settings = Settings.of({"data": "digits"})
    jobs = plan(settings, ["dense", "gem-miner", "imp", "erk"], [0])
    path = Path(tempfile.mkdtemp())
    try:
        config = {**settings.as_dict(), "methods": ["dense", "gem-miner", "imp", "erk"], "seeds": 1}
        folder = RunFolder.create(path / "run", config=config, command="gemkern race", jobs=jobs)
        for one in jobs[:3]:
            own = folder.folder_of(one)
            for epoch in (1, 2):
                own.append(_epoch(one.method, 0, epoch))
            if one.method == "imp":
                own.fail(ValueError("by chance"))
            else:
                run, saving = _result(one.method, 0)
                own.finish([run], [saving])
        folder.gather()
        files = [one for one in folder.path.rglob("*") if one.is_file()]
        return {str(one.relative_to(folder.path)): one.read_bytes() for one in files}
    finally:
        shutil.rmtree(path)


class Folder(NamedTuple):
    """What becomes of the folder of a run: a file is spoiled, one may be another thing."""

    spoiled: int
    changes: list[Change]
    edits: list[Edit]
    strange: tuple[int, str] | None
    is_drawn: bool


def run_inputs() -> st.SearchStrategy[Folder]:
    """Return what becomes of a run."""
    # A picture takes as long as a hundred tables.
    return st.builds(
        Folder,
        st.integers(0, 20),
        changes(2),
        st.just([]) | st.just([]) | edits(2),
        st.none()
        | st.none()
        | st.tuples(st.integers(0, 20), st.sampled_from((*STRANGE, "missing"))),
        st.integers(0, 39).map(lambda number: number == 7),
    )


def _laid(value: Folder, folder: Path) -> RunFolder:
    files: dict[str, bytes | str] = dict(_run_files())
    names = sorted(files)
    name = names[value.spoiled % len(names)]
    whole = _run_files()[name]
    if value.changes:
        lines = whole.splitlines() if name.endswith("jsonl") else [whole]
        trees = changed([json.loads(line) for line in lines], value.changes)
        whole = b"\n".join(text_of(tree).encode() for tree in trees)
        whole += b"\n" if name.endswith("jsonl") else b""
    files[name] = edited(whole, value.edits)
    if value.strange is not None:
        other, kind = value.strange
        files[names[other % len(names)]] = kind
    lay(folder, {name: content for name, content in files.items() if content != "missing"})
    return RunFolder(folder)


def try_show(value: Folder, folder: Path) -> None:
    """Show the run as `gemkern show` does, and all that can be asked of it."""
    _laid(value, folder)
    with reading():
        found = RunFolder.load(folder)
        run = shown(found)
        sentences = [one.sentence for one in found.failures()]
        _print(run.command, *run.tables, *sentences, savings_table(found.savings()))
        for record in found.records().values():
            read_choice(record)
        runs, epochs = [*found.runs(), *run.runs], [*found.epochs(), *run.epochs]
        if value.is_drawn and runs and epochs:
            draw_race(runs, epochs).savefig(io.BytesIO(), format="png", dpi=40)


def try_resume(value: Folder, folder: Path) -> None:
    """Go on with the run as far as it goes without training."""
    found = _laid(value, folder)
    with reading(inside=folder):
        settings = settings_among(found.asked())
        check_resumed(found, found.jobs())
        found.gather()
        for own in found.left():
            found.folder_of(own).give(found.given(own))
        found.tickets()
    _check_kinds(settings)


def _print(*what: Any) -> None:
    console = Console(file=io.StringIO(), width=110)
    for one in what:
        console.print(one, markup=False)


FUZZERS = (
    Fuzzer("--set", try_assignments, assignment_inputs, Asked(None, [])),
    Fuzzer("settings", try_settings, settings_inputs, {}),
    Fuzzer("job", try_job, job_inputs, []),
    Fuzzer("show", try_show, run_inputs, Folder(0, [], [], None, True)),
    Fuzzer("resume", try_resume, run_inputs, Folder(0, [], [], None, False)),
)
