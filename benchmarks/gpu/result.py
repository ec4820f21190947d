"""The result file: what was measured, where and with what, written anew after each row."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks import result_files
from benchmarks.result_files import output
from gemkern.errors import GemkernError
from gemkern.files import write_atomically

MEASURED, NOT_MEASURED, FAILED = "measured", "not measured", "failed"
# What rows of one file have in common, beside the GPU's name.
SOURCES = ("benchmark", "commit", "changed", "versions")

Entry = dict[str, Any]


class Result:
    """Rows by section and name, in a JSON file that is whole at any moment.

    Attributes:
        about: machine, versions, commit and settings.
        bars: the claims that the rows decide, as `benchmarks.gpu.bars` finds them.
    """

    def __init__(self, path: Path, about: Entry) -> None:
        self._path = path
        self._rows: dict[tuple[str, str], Entry] = {}
        self.about = about
        self.bars: list[Entry] = []

    def resume(self, kept_in: Path | None = None) -> None:
        """Take over the rows that an earlier process left in the file, or else in one `kept_in`.

        Raises:
            GemkernError: they are of another GPU or of other code.
        """
        path = self._path if self._path.exists() or kept_in is None else kept_in
        if not path.exists():
            return
        kept = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in SOURCES if kept["about"].get(name) != self.about.get(name)]
        if _gpus(kept["about"]) != _gpus(self.about):
            changed.append("GPU")
        if changed:
            raise GemkernError(
                f"{path} was measured with another {', another '.join(changed)}: "
                "give a new folder, or leave out --resume"
            )
        self._rows = {(row["section"], row["name"]): row for row in kept["rows"]}

    def add(self, section: str, name: str, entry: Entry) -> None:
        self._rows[section, name] = {"section": section, "name": name, **entry}
        self.write()

    def find(self, section: str, name: str) -> Entry:
        """Return a row; an empty one where there is none."""
        return self._rows.get((section, name), {})

    def settled(self, section: str, name: str) -> bool:
        """Return whether a row was measured, or tried."""
        return self.find(section, name).get("status") in (MEASURED, FAILED)

    def of(self, section: str) -> list[Entry]:
        return [row for (place, _), row in self._rows.items() if place == section]

    def write(self) -> None:
        about = {**self.about, "written": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        whole = {"about": about, "bars": self.bars, "rows": list(self._rows.values())}
        text = json.dumps(whole, indent=1) + "\n"
        write_atomically(self._path, lambda path: path.write_text(text, "utf-8"))


def _gpus(about: Entry) -> list[str]:
    """Return the names of the GPUs: rows of another host with the same are as good."""
    return [one["name"] for one in about.get("devices", ()) if one["device"] != "cpu"]


def about(commit: str, rehearsal: bool) -> Entry:
    """Return what stands behind the numbers."""
    # As it was given to the process that supervises this one.
    found = result_files.about(result_files.command("benchmarks.gpu").replace(" --worker", ""))
    return {
        "benchmark": "rehearsal, no measurement" if rehearsal else "gpu",
        **found,
        "commit": commit or found["commit"],
        "driver": output("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem",
                         "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "times": "microseconds; contenders in turn in one process; median, 10th and 90th percentile"
        " of at most 50 repetitions; called: from Python on an idle device; queued: from Python on"
        " a busy one; captured: a CUDA graph replayed on a busy one",
    }  # fmt: skip
