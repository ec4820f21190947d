"""Keep what races measured, and write the tables and figures of pages from what is kept.

python -m benchmarks.readme                     write tables and figures anew
python -m benchmarks.readme RUN_FOLDER KIND     first keep a run of gemkern race, named KIND-MACHINE

Pages are README and those of `docs/`. A block `<!-- KIND: NAME -->` shows the result file NAME, and
says so; `result of METHOD` shows a line of it. Where that is not there, blocks of OPTIONAL kinds
say "not measured". A block "accelerated: NAME" shows a race beside the same race run with `--set
accelerate=never` and kept as KIND-dense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import figures, images, race_report, result_files, roofline
from benchmarks.comparison import report as comparison
from benchmarks.peers import report as peers
from benchmarks.readme_cpu import CPU_BLOCKS
from benchmarks.readme_races import RACE_BLOCKS
from benchmarks.result_files import RESULTS, ROOT, kept
from benchmarks.schedule import report as schedule
from gemkern.files import write_atomically
from gemkern.tickets import METHODS

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
Render = Callable[[str, Mapping[str, Any]], str]
Draw = Callable[[Mapping[str, Any], Path], list[Path]]
BLOCKS: dict[str, Render] = {
    **RACE_BLOCKS,
    **CPU_BLOCKS,
    "roofline": roofline.markdown,
    "equal-steps": comparison.steps_block,
    "equal-steps-figure": comparison.figure_block,
    "equal-seconds": comparison.seconds_block,
    "tries": comparison.tries_block,
    **{f"result of {name}": partial(comparison.result_block, name) for name in METHODS},
    "schedule": schedule.block,
    "peers": peers.block,
    "images": images.block,
}
FIGURES: dict[str, Draw] = {
    "curves": figures.draw,
    "rivals": race_report.draw,
    "roofline": roofline.draw,
    "equal-steps": comparison.draw,
}
OPTIONAL = ("rivals", "roofline")
BLOCK = re.compile(
    rf"(<!-- ({'|'.join(BLOCKS)}): ([\w-]+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


def keep(run_folder: Path, kind: str) -> None:
    """Join a run folder's configuration and results in one file under `benchmarks/results/`."""
    found = result_files.about("")
    for part in ("config.json", "results.json"):
        found |= json.loads((run_folder / part).read_text(encoding="utf-8"))
    for part in ("jobs", "left", "failed"):
        found.pop(part, None)
    found["command"] = result_files.without_folders(found["command"])
    found["config"]["data_dir"] = None
    name = result_files.named(kind, result_files.used(found["config"]["device"], found["devices"]))
    result_files.keep(RESULTS, name, {**found, **result_files.TRAINED})


def filled(text: str, page: Path = README) -> str:
    """Return the `text` of a page with each marked block written from the results it names."""
    up = "../" * len(page.parent.relative_to(ROOT).parts)

    def block(match: re.Match[str]) -> str:
        written = _block(match[2], match[3]).replace("](benchmarks/", f"]({up}benchmarks/")
        return match[1] + written + match[4]

    return BLOCK.sub(block, text)


def drawn(text: str, folder: Path) -> list[Path]:
    """Draw the figures of the blocks of `text` to a folder and return their paths."""
    return [
        path
        for _, kind, name, _ in BLOCK.findall(text)
        if kind in FIGURES and not _lacks(kind, name)
        for path in FIGURES[kind](kept(name), folder / name)
    ]


def _block(kind: str, name: str) -> str:
    if _lacks(kind, name):
        return f"\nNot measured: there is no `benchmarks/results/{name}.json` yet.\n\n"
    return f"\n{BLOCKS[kind](name, kept(name))}\n"


def _lacks(kind: str, name: str) -> bool:
    return kind in OPTIONAL and not (RESULTS / f"{name}.json").exists()


def main(
    run_folder: Annotated[Path | None, typer.Argument(help="A finished run to keep.")] = None,
    kind: Annotated[str | None, typer.Argument(help="Name of the kept results.")] = None,
) -> None:
    """Keep a run, if one is given with a name, and write the tables and figures of all pages."""
    if run_folder is not None and kind is not None:
        keep(run_folder, kind)
    for page in PAGES:
        text = filled(page.read_text(encoding="utf-8"), page)
        drawn(text, RESULTS)
        write_atomically(page, partial(Path.write_text, data=text, encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
