"""Tables of sparse training on a CPU, from what `benchmarks.cpu` has kept."""

from __future__ import annotations

from collections.abc import Callable
from statistics import geometric_mean
from typing import Any

from benchmarks.figures import DENSITY_FIGURE, SIZE_FIGURE
from benchmarks.result_files import image, source

# Densities that are shown layer by layer.
SHOWN = (0.0144, 0.05)
# Steps that the front page shows: network, density, batch; and of single layers, their density.
FRONT = (
    ("vgg16", 0.0144, 128),
    ("wide_resnet28_2", 0.0144, 128),
    ("resnet20", 0.0144, 128),
    ("resnet20", 0.2, 128),
)
FRONT_LAYERS = 0.5
FRONT_PASSES = ("forward", "input gradient")
MEBIBYTE = 2**20
Row = dict[str, Any]


def _steps(kept: dict[str, Any]) -> str:
    heads = "network", "density<br>%", "batch", "accelerated<br>ms", "dense<br>ms"
    more = "dense /<br>accelerated", "floor<br>ms", "accelerated<br>MiB", "dense<br>MiB"
    lines = [f"| {' | '.join((*heads, *more))} |", "| --- |" + " ---: |" * 8]
    for row in kept["steps"]:
        name = row["network"] + (", as in a ticket" if row["masks"] == "ticket" else "")
        memory = (_mebibytes(row[f"{of}_memory"]) for of in ("sparse", "dense"))
        cells = (
            name, f"{100 * row['density']:g}", row["batch"], _milliseconds(row, "sparse"),
            _milliseconds(row, "dense"), f"{row['ratio']:.1f}", f"{row['floor']:.0f}", *memory,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _front(kept: dict[str, Any]) -> str:
    """Return what is faster and what is not: some steps, and single layers where they lose."""
    lines = [
        "| what | density<br>% | batch | dense<br>ms | sparse<br>ms | faster by |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    uniform = [row for row in kept["steps"] if row["masks"] == "uniform"]
    steps = {(row["network"], row["density"], row["batch"]): row for row in uniform}
    for one in FRONT:
        network, density, batch = one
        dense, sparse, ratio = (steps[one][key] for key in ("dense", "sparse", "ratio"))
        cells = f"{100 * density:g} | {batch} | {dense:.0f} | {sparse:.0f} | {ratio:.1f}x"
        lines.append(f"| a training step of {network} | {cells} |")
    means = {
        row["which"]: row["geometric_mean"]
        for row in kept["geometric_means"]
        if row["density"] == FRONT_LAYERS
    }
    layers = len({_layer(row) for row in kept["layers"]})
    for which in FRONT_PASSES:
        lines.append(
            f"| {layers} single convolutions, {which}, geometric mean | {100 * FRONT_LAYERS:g} "
            f"| 128 | - | - | {means[which]:.1f}x |"
        )
    return "\n".join(lines) + "\n"


def _layer(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "inputs", "outputs", "size", "stride"))


def _milliseconds(row: Row, of: str) -> str:
    """Return the median with the quartiles, 93 (92 to 95)."""
    first, third = row[f"{of}_spread"]
    return f"{row[of]:.0f} ({first:.0f} to {third:.0f})"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / MEBIBYTE:.0f}"


def _layers(kept: dict[str, Any]) -> str:
    """Return the ratios of each layer by pass, and their geometric mean in the last line."""
    rows = [row for row in kept["layers"] if row["density"] in SHOWN]
    passes = list(dict.fromkeys(row["which"] for row in rows))
    columns = [(density, which) for density in SHOWN for which in passes]
    layers: dict[str, dict[tuple[float, str], float]] = {}
    for row in rows:
        stride = "" if row["stride"] == 1 else f", stride {row['stride']}"
        side = f"{row['size']}x{row['size']}"
        name = f"{row['network']}: {row['inputs']} to {row['outputs']} at {side}{stride}"
        layers.setdefault(name, {})[row["density"], row["which"]] = row["ratio"]
    heads = [f"{which}<br>{100 * density:g} %" for density, which in columns]
    lines = [f"| layer | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(columns)]
    for name, ratios in layers.items():
        lines.append(f"| {name} | {' | '.join(f'{ratios[key]:.1f}' for key in columns)} |")
    means = (geometric_mean([ratios[key] for ratios in layers.values()]) for key in columns)
    lines.append(f"| geometric mean | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return "\n".join(lines) + "\n"


def _means(kept: dict[str, Any]) -> str:
    """Return the geometric means over all layers, a density a line."""
    found: dict[float, dict[str, float]] = {}
    for row in kept["geometric_means"]:
        found.setdefault(row["density"], {})[row["which"]] = row["geometric_mean"]
    passes = list(dict.fromkeys(row["which"] for row in kept["geometric_means"]))
    lines = [f"| density<br>% | {' | '.join(passes)} |", "| ---: |" + " ---: |" * len(passes)]
    for density, means in sorted(found.items()):
        cells = " | ".join(f"{means[which]:.1f}" for which in passes)
        lines.append(f"| {100 * density:g} | {cells} |")
    return "\n".join(lines) + "\n"


def _busy(kept: dict[str, Any]) -> str:
    """Return a line for a network and its number of busy processes, a column for a way to wait."""
    ways = list(kept["ways"])
    cells: dict[tuple[str, str, int], dict[str, str]] = {}
    for row in kept["steps"]:
        first, third = row["quartiles"]
        text = f"{row['ms']:.0f} ({first:.0f} to {third:.0f})"
        cells.setdefault((row["network"], row["contender"], row["busy"]), {})[row["way"]] = text
    heads = "network", "", "busy<br>processes", *(f"{way}<br>ms" for way in ways)
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (1 + len(ways))]
    for (network, contender, number), found in cells.items():
        shown = " | ".join(found[way] for way in ways)
        lines.append(f"| {network} | {contender} | {number} | {shown} |")
    return "\n".join(lines) + "\n"


def _curve(name: str, kept: dict[str, Any]) -> str:
    return image("Step time against density", f"{name}-{DENSITY_FIGURE}")


def _curves(name: str, kept: dict[str, Any]) -> str:
    density = _curve(name, kept)
    size = image("Step time against batch and width", f"{name}-{SIZE_FIGURE}")
    return f"{density}\n{size}"


def _with_source(
    table: Callable[[dict[str, Any]], str],
    how: str = "medians, the dense step or layer in the faster of two layouts",
) -> Callable[[str, dict[str, Any]], str]:
    """Return what writes a table with the command, the machine and the versions below it."""

    def block(name: str, kept: dict[str, Any]) -> str:
        origin = source(name, kept, kept["devices"][0])
        return f"{table(kept)}\n`{kept['command']}`: {how}; {origin}\n"

    return block


CPU_BLOCKS = {
    "steps": _with_source(_steps),
    "front": _with_source(_front),
    "curve": _curve,
    "curves": _curves,
    "layers": _with_source(_layers),
    "means": _with_source(_means),
    "busy": _with_source(_busy, "medians and quartiles"),
}
