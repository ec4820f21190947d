"""Keep what races measured, and write README's tables and figures from what is kept.

python -m benchmarks.readme                     write tables and figures anew
python -m benchmarks.readme RUN_FOLDER NAME     first keep a run as benchmarks/results/NAME.json

A block "accelerated: NAME" shows the race NAME beside NAME-dense, the same race run with
`--set accelerate=false`; a block "saved: NAME" shows what the steps of NAME saved.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.figures import draw
from benchmarks.readme_accelerated import accelerated, saved
from benchmarks.readme_cpu import CPU_BLOCKS, machine
from gemkern.experiments.records import Run
from gemkern.files import write_atomically
from gemkern.report import markdown_table, paired_gain

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BLOCK = re.compile(
    r"(<!-- (race|gains|accelerated|saved|steps|layers|means): ([\w-]+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


def keep(run_folder: Path, name: str) -> None:
    """Join a run folder's configuration and results in one file under `benchmarks/results/`."""
    kept: dict[str, Any] = {}
    for part in ("config.json", "results.json"):
        kept |= json.loads((run_folder / part).read_text(encoding="utf-8"))
    kept["command"] = re.sub(r"(--(?:out|data-dir)) \S+", r"\1 DIR", kept["command"])
    kept["config"]["data_dir"] = None
    text = json.dumps(kept, indent=1) + "\n"
    write_atomically(RESULTS / f"{name}.json", lambda path: path.write_text(text, "utf-8"))


def filled(text: str) -> str:
    """Return `text` with each marked block written from the results that it names."""
    return BLOCK.sub(lambda match: match[1] + _block(match[2], match[3]) + match[4], text)


def _block(kind: str, name: str) -> str:
    kept = _kept(name)
    if kind == "accelerated":
        return f"\n{accelerated(kept, _kept(f'{name}-dense'))}\n{_provenance(kept)}\n"
    if kind == "saved":
        return f"\n{saved(kept)}\n{_provenance(kept)}\n"
    if kind in CPU_BLOCKS:
        return f"\n{CPU_BLOCKS[kind](kept)}\n{machine(kept)}\n"
    runs = [Run(**run) for run in kept["runs"]]
    table = markdown_table(runs) if kind == "race" else _gains(runs)
    return f"\n{table}\n{_provenance(kept)}\n"


def _kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _gains(runs: list[Run], method: str = "gem-miner") -> str:
    rivals = dict.fromkeys(run.method for run in runs if run.method != method)
    lines = [f"| {method} beats | by points | standard error | in standard errors |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for rival in rivals:
        gain, error = paired_gain(runs, method, rival)
        assert error, "a table of gains needs more than one seed"
        lines.append(f"| {rival} | {100 * gain:.2f} | {100 * error:.2f} | {gain / error:.1f} |")
    return "\n".join(lines) + "\n"


def _provenance(kept: dict[str, Any]) -> str:
    versions, config = kept["versions"], kept["config"]
    machine = kept["devices"][0]
    seeds = len({run["seed"] for run in kept["runs"]})
    autocast = config.get("autocast", "none")
    precision = "float32" if autocast == "none" else f"{autocast} autocast"
    return (
        f"`{kept['command']}`: {config['model']}, {seeds} seeds, mean ± sample standard deviation; "
        f"{precision} on {config['device']} "
        f"({machine['name']}, {machine['torch_threads']} threads), "
        f"torch {versions['torch']}, Python {versions['python']}.\n"
    )


def main(
    run_folder: Annotated[Path | None, typer.Argument(help="A finished run to keep.")] = None,
    name: Annotated[str | None, typer.Argument(help="Name of the kept results.")] = None,
) -> None:
    """Keep a run, if one is given with a name, and write README's tables and figures."""
    if run_folder is not None and name is not None:
        keep(run_folder, name)
    text = filled(README.read_text(encoding="utf-8"))
    draw(_kept("cpu")["steps"], RESULTS)
    write_atomically(README, lambda path: path.write_text(text, "utf-8"))


if __name__ == "__main__":
    typer.run(main)
