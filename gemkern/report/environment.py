"""What stands behind a measurement: versions, devices, and the backends that can serve here."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gemkern.ops.dispatch import availability

PACKAGES = ("torch", "numpy", "triton", "numba", "safetensors", "scikit-learn")
# Columns of characters in which operators are listed.
LEAST_WIDTH = 32
SERVES = "serves"


def versions() -> dict[str, str]:
    """Version by name: gemkern, python and PACKAGES; "not installed" for what is missing.

    Installed metadata is read; no package is imported.
    """
    return {
        "gemkern": _version("gemkern"),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def devices() -> list[dict[str, Any]]:
    """The CPU first, then every CUDA device; plain values that JSON can hold.

    Keys: `device` and `name` everywhere; `cores`, `hardware_threads`, `torch_threads` and
    `capability` (the vector instructions torch uses) for the CPU; `memory_bytes` and `capability`
    (compute capability, "9.0") for CUDA.
    """
    return [_cpu(), *(_cuda(index) for index in range(torch.cuda.device_count()))]


def info() -> RenderableType:
    """What `gemkern info` prints: versions, devices, and who serves which operator or why not."""
    return Group(_versions_table(), _devices_table(), _backends_table())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> dict[str, Any]:
    processors = _processors()
    cores = {
        (entry.get("physical id"), entry["core id"]) for entry in processors if "core id" in entry
    }
    names = [entry["model name"] for entry in processors if "model name" in entry]
    return {
        "device": "cpu",
        "name": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(cores) or os.cpu_count(),
        "hardware_threads": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _processors() -> list[dict[str, str]]:
    """Linux's own description, one dictionary a hardware thread; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = (
        [line.partition(":") for line in block.splitlines()] for block in text.strip().split("\n\n")
    )
    return [{key.strip(): value.strip() for key, _, value in block} for block in blocks]


def _cuda(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _versions_table() -> Table:
    table = _table("versions", "package", "version")
    for package, version in versions().items():
        table.add_row(package, Text(version))
    return table


def _devices_table() -> Table:
    table = _table("devices", "device", "name", "size", "capability")
    for device in devices():
        table.add_row(device["device"], Text(device["name"]), _size(device), device["capability"])
    return table


def _size(device: dict[str, Any]) -> str:
    if "memory_bytes" in device:
        return f"{device['memory_bytes'] / 2**30:.1f} GiB"
    return (
        f"{device['cores']} cores, {device['hardware_threads']} threads, "
        f"{device['torch_threads']} used by torch"
    )


def _backends_table() -> Table:
    """One row for all the operators that every backend answers alike."""
    operators_by_row: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for operator, answers in availability().items():
        operators_by_row.setdefault(tuple(answers.items()), []).append(operator)
    backends = list(dict.fromkeys(name for row in operators_by_row for name, _ in row))
    table = _table("operators and backends", "operators", *backends)
    # No name is broken, with the comma after it; a width that is fixed leaves the others theirs.
    table.columns[0].width = max(LEAST_WIDTH, 1 + max(map(len, availability())))
    for row, operators in operators_by_row.items():
        reasons = dict(row)
        # Text, because a reason may hold square brackets ("gemkern[gpu]"), rich's markup.
        table.add_row(", ".join(operators), *(Text(reasons[name] or SERVES) for name in backends))
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
