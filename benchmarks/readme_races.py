"""README's tables of whole races, from what `gemkern race` and `benchmarks.race` have kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import race_report
from benchmarks.readme_accelerated import accelerated
from benchmarks.result_files import image, kept, named, source, used
from gemkern.experiments.records import Run
from gemkern.experiments.summary import paired_gain
from gemkern.report import markdown_table

Kept = Mapping[str, Any]


def _race(name: str, found: Kept) -> str:
    return f"{markdown_table(_runs(found))}\n{_provenance(name, found)}"


def _gains(name: str, found: Kept, method: str = "gem-miner") -> str:
    runs = _runs(found)
    rivals = dict.fromkeys(run.method for run in runs if run.method != method)
    lines = [f"| {method} beats | by points | standard error | in standard errors |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for rival in rivals:
        gain, error = paired_gain(runs, method, rival)
        assert error, "a table of gains needs more than one seed"
        lines.append(f"| {rival} | {100 * gain:.2f} | {100 * error:.2f} | {gain / error:.1f} |")
    return "\n".join([*lines, "", _provenance(name, found)])


def _accelerated(name: str, found: Kept) -> str:
    device = _device(found)
    kind = name.removesuffix(named("", device))
    return f"{accelerated(found, kept(named(f'{kind}-dense', device)))}\n{_provenance(name, found)}"


def _rivals(name: str, found: Kept) -> str:
    table = race_report.markdown(found["runs"])
    picture = image("Accuracy against seconds", f"{name}-accuracy.png")
    return f"{table}\n{_provenance(name, found)}\n{picture}"


def _runs(found: Kept) -> list[Run]:
    return [Run(**run) for run in found["runs"]]


def _device(found: Kept) -> dict[str, Any]:
    devices: Sequence[dict[str, Any]] = found["devices"]
    return used(found["config"]["device"], devices)


def _provenance(name: str, found: Kept) -> str:
    config = found["config"]
    count = len({run["seed"] for run in found["runs"]})
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    autocast = config.get("autocast", "none")
    measured = found if autocast == "none" else {**found, "dtype": f"{autocast} autocast"}
    return (
        f"`{found['command']}`: {config['model']}, {seeds}, mean ± sample standard "
        f"deviation; {source(name, measured, _device(found))}\n"
    )


RACE_BLOCKS = {
    "race": _race,
    "gains": _gains,
    "accelerated": _accelerated,
    "rivals": _rivals,
}
