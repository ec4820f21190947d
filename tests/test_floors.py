"""An import points down the floors of the house, never up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rooms by floor, the lowest first; a room may import its own floor only where FRIENDS says so.
FLOORS = (
    ("gemkern.kernels",),
    (
        "gemkern.errors",
        "gemkern.files",
        "gemkern.numbers",
        "gemkern.starting",
        "gemkern.tensor_file",
        "gemkern.waiting",
    ),
    ("gemkern.ops",),
    ("gemkern.optim",),
    ("gemkern.nn",),
    ("gemkern.models", "gemkern.data", "gemkern.training"),
    ("gemkern.tickets",),
    ("gemkern.experiments",),
    ("gemkern.report",),
    ("gemkern.cli", "gemkern.racing", "gemkern.__main__"),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FRIENDS = {
    ("gemkern.training", "gemkern.data"),
    ("gemkern.files", "gemkern.errors"),
    ("gemkern.numbers", "gemkern.errors"),
    ("gemkern.tensor_file", "gemkern.errors"),
    ("gemkern.tensor_file", "gemkern.files"),
    ("gemkern.__main__", "gemkern.cli"),
}
# The package's front door gathers names from every floor.
FRONT_DOOR = "gemkern"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("gemkern", *parts)
    return ".".join(part for part in parts if part != "__init__")


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only: they can be read without a map"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in ("gemkern", "kernels")}


def room(name: str) -> str:
    for candidate in sorted(HEIGHT, key=len, reverse=True):
        if name == candidate or name.startswith(f"{candidate}."):
            return candidate
    return FRONT_DOOR


def wrong_way(source: str, target: str) -> bool:
    if source in (target, FRONT_DOOR) or (source, target) in FRIENDS:
        return False
    if target == FRONT_DOOR:
        return True
    if source == "gemkern.kernels":
        return True
    return HEIGHT[target] >= HEIGHT[source]


# Rooms of kernels/, the lowest first; files beside rooms stand above all of theirs.
KERNEL_FLOORS = (
    ("geometry", "kept", "layouts"),
    ("reference",),
    ("cpu.machine",),
    ("cpu.walks", "cpu.lists", "cpu.loops"),
    ("cpu.engines",),
    ("cpu", "gpu"),
    ("table",),
)
KERNEL_HEIGHT = {room: height for height, rooms in enumerate(KERNEL_FLOORS) for room in rooms}

KERNELS = sorted(ROOT.glob("kernels/*/**/*.py"))
SOURCES = sorted([*ROOT.glob("gemkern/**/*.py"), *ROOT.glob("kernels/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    source = room(module_name(path))
    targets = imported(ast.parse(path.read_text(encoding="utf-8")))
    offending = [target for target in targets if wrong_way(source, room(target))]
    assert not offending, f"{path.name} stands in {source} and must not import {offending}"


def kernel_room(name: str) -> str:
    inside = name.removeprefix("gemkern.kernels").removeprefix(".")
    rooms = sorted(KERNEL_HEIGHT, key=len, reverse=True)
    return next((one for one in rooms if f"{inside}.".startswith(f"{one}.")), "")


def points_up(source: str, target: str) -> bool:
    """Return whether a file of a room of kernels/ must not import from another."""
    if not target or source == target:
        return False
    return KERNEL_HEIGHT[target] >= KERNEL_HEIGHT[source]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_kernels_point_down(path: Path) -> None:
    source = kernel_room(module_name(path))
    targets = imported(ast.parse(path.read_text(encoding="utf-8")))
    offending = [target for target in targets if points_up(source, kernel_room(target))]
    assert not offending, f"{path.name} stands in kernels/{source} and must not import {offending}"


def test_the_rule_sees_an_arrow_that_points_up() -> None:
    assert wrong_way("gemkern.ops", "gemkern.nn")
    assert wrong_way("gemkern.kernels", "gemkern.errors")
    assert wrong_way("gemkern.models", "gemkern.data")
    assert points_up("cpu.machine", "cpu.engines")
    assert points_up("reference", "cpu")
    assert not points_up("cpu.engines", "cpu.loops")
    assert wrong_way("gemkern.ops", "gemkern")
    assert not wrong_way("gemkern.tickets", "gemkern.training")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
