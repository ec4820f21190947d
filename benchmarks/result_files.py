"""Result files: JSON under `benchmarks/results/`, named by what was measured and by the machine.

A file `KIND-MACHINE.json` holds what stands behind its numbers (`about`) beside the numbers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemkern.files import write_atomically
from gemkern.report.environment import devices, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Files that a benchmark writes: they do not change what it measures.
WRITTEN = ("benchmarks/results", "README.md", "docs")
# What says nothing about a device: trademarks, clocks, memory, makers, kinds.
SILENT = re.compile(
    r"\((r|tm|c)\)|@.*|\b\d+-core\b|\b\d+ ?g[i]?b\b|\bhbm\w*|"
    r"\b(intel|amd|nvidia|geforce|tesla|processor|cpu|gpu|graphics)\b"
)
# A list of plain values, which is written in one line.
PLAIN = re.compile(r"\[\n\s*([^][{}]*?)\n\s*\]")
# How `gemkern.training` computes.
TRAINED = {"dtype": "float32", "layout": "contiguous; batch-last on the sparse kernels"}
# Vectors of a CPU that are in the name of its machine: of others nothing is said.
WIDE = "AVX512"
# What compiles the kernels of a CPU, and of other devices.
CPU_COMPILER, COMPILER = "numba", "triton"
# Characters of a commit that name it.
COMMIT = 9

Content = dict[str, Any]


def machine(device: Mapping[str, Any]) -> str:
    """Return a short name of one of `gemkern.report.devices()`: h100, epyc-avx512-2-threads."""
    words = re.findall(r"[a-z0-9]+", SILENT.sub(" ", device["name"].lower()))
    if device.get("capability") == WIDE:
        words.append(WIDE.lower())
    threads = f"{device['torch_threads']}-threads" if "torch_threads" in device else ""
    return "-".join([*(words or ["unknown"]), *filter(None, [threads])])


def named(kind: str, device: Mapping[str, Any]) -> str:
    """Return the name of the result file of `kind` on a device, without its ending."""
    return f"{kind}-{machine(device)}"


def used(device: str, there: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the one of the devices `there` (here, if not given) that PyTorch's `device` means."""
    wanted = "cuda:0" if device == "cuda" else device
    found = devices() if there is None else there
    return next(dict(one) for one in found if one["device"] == wanted)


def about(command: str) -> Content:
    """Return command, commit, whether the tree differs from it, versions and devices."""
    return {
        "command": command,
        "commit": commit(),
        "changed": changed(),
        "versions": versions(),
        "devices": devices(),
    }


def commit() -> str:
    """Return the commit that the tree stands at; nothing outside a repository."""
    return output("git", "rev-parse", "HEAD")


def changed() -> bool:
    """Return whether tracked files, other than what benchmarks write, differ from the commit."""
    others = (f":!{path}" for path in WRITTEN)
    return bool(output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *others))


def output(*command: str) -> str:
    """Return what a command prints; nothing where it cannot run."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def command(module: str) -> str:
    """Return the command line of this process, with DIR for its folders."""
    return without_folders(" ".join([f"python -m {module}", *sys.argv[1:]]))


def without_folders(line: str) -> str:
    """Return a command line with DIR in place of the folders that it names."""
    return re.sub(r"(--(?:out|data-dir))[ =]\S+", r"\1 DIR", line)


def keep(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write a result file and return its path."""
    text = PLAIN.sub(_in_one_line, json.dumps(content, indent=1, allow_nan=False)) + "\n"
    path = folder / f"{name}.json"
    write_atomically(path, lambda place: place.write_text(text, "utf-8"))
    return path


def kept(name: str, folder: Path = RESULTS) -> Content:
    """Return a result file as it stands."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def source(name: str, found: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """Return for a page what dtype, device, versions and commit a result is of, and its file."""
    count = device.get("torch_threads")
    threads = "" if count is None else ", 1 thread" if count == 1 else f", {count} threads"
    versions = found["versions"]
    compiler = CPU_COMPILER if device["device"] == "cpu" else COMPILER
    packages = [f"{package} {versions[package]}" for package in ("torch", compiler)]
    commit = found.get("commit", "")[:COMMIT]
    at = f", commit {commit}{' with changes' if found['changed'] else ''}" if commit else ""
    return (
        f"{found.get('dtype', 'float32')} on {device['name']}{threads}, {', '.join(packages)}, "
        f"Python {versions['python']}{at} ([{name}.json](benchmarks/results/{name}.json))."
    )


def image(title: str, file: str) -> str:
    """Return a figure of `benchmarks/results/` for a page, ending in a newline."""
    return f"![{title}](benchmarks/results/{file})\n"


def _in_one_line(found: re.Match[str]) -> str:
    entries = re.sub(r",\n\s*", ", ", found[1])
    return f"[{entries}]"
