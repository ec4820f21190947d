"""How near kernels come to what bounds them, as figures: of a CPU's result file, and of a GPU's.

What works element by element stands beside a copy: bytes that have to move, over the bandwidth that
was measured. What multiplies stands beside a large dense product: operations with the weights that
remain (useful) and all those of the dense operator (dense-equivalent), over the rate that was
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figures import save
from benchmarks.result_files import image, source
from gemkern.report.scales import log_scale

# Endings of the names of figures, and their titles.
FIGURES = {
    "bandwidth.png": "Bandwidth over that of a copy",
    "products.png": "Operations over those of a dense product",
}
# Inches of a line of a figure, and of what stands around the lines.
LINE, AROUND = 0.2, 1.2
# Sections of a GPU's file; what of them is drawn: convolutions of so many images, the most rows.
TRAFFIC, CUDNN = "traffic", "cudnn"
PRODUCTS = ("products", "products float32")
IMAGES = 128
GIGA, TERA = 1e9, 1e12
Found = Mapping[str, Any]


class Moved(NamedTuple):
    """A kernel that works element by element: bytes a second, and the share of a copy's."""

    kernel: str
    of: str
    rate: float
    share: float


class Multiplied(NamedTuple):
    """A kernel that multiplies: its useful and dense-equivalent shares of a dense product's rate.

    `group` is the panel that it is drawn in.
    """

    group: str
    kernel: str
    of: str
    useful: float
    dense: float


def moved(found: Found) -> list[Moved]:
    """Return the kernels of a result file that work element by element."""
    if "rows" not in found:
        rows = found["traffic"]
        return [Moved(r["operator"], r["of"], r["bytes_per_s"], r["share"]) for r in rows]
    return [
        Moved(row["operator"], row["network"], row["bytes_per_s"], row["share"])
        for row in _measured(found, TRAFFIC)
        if row["share"] is not None
    ]


def multiplied(found: Found) -> list[Multiplied]:
    """Return the kernels of a result file that multiply; of two ways to run one, the faster."""
    if "rows" not in found:
        return [
            Multiplied(
                f"density {100 * row['density']:g} %",
                row["operator"],
                row["of"],
                row["useful_share"],
                row["dense_equivalent_share"],
            )
            for row in found["products"]
        ]
    return [*_masked_products(found), *_plain_products(found)]


def draw(found: Found, stem: Path) -> list[Path]:
    """Write both figures of a result file and return their paths.

    Args:
        stem: where figures go, to be ended by their names.
    """
    bandwidths, products = moved(found), multiplied(found)
    path, other = (stem.with_name(f"{stem.name}-{name}") for name in FIGURES)
    return [
        save(_bandwidths(bandwidths), path, bandwidths),
        save(_products(products), other, products),
    ]


def markdown(name: str, found: Found) -> str:
    """Return README's lines of a result file: the bounds, where they are from, and the figures."""
    if "rows" in found:
        about = {**found["about"], "dtype": "float32 scores, bfloat16 effective weights"}
        device = about["devices"][-1]
    else:
        about, device = found, found["devices"][0]
    copy, product = bounds(found)
    return (
        f"A copy moves {copy / GIGA:.0f} GB/s, a dense product takes {product / TERA:.3g} TFLOP/s. "
        f"`{about['command']}`: medians; {source(name, about, device)}\n\n"
        + "\n".join(image(title, f"{name}-{ending}") for ending, title in FIGURES.items())
    )


def bounds(found: Found) -> tuple[float, float]:
    """Return what was measured of the largest copy and of dense products, a second."""
    if "rows" in found:
        copy = _ceiling(found, "copy 1 GB", "bytes_per_s")
        return copy, _ceiling(found, "matmul bf16", "flop_per_s")
    largest = max(found["traffic"], key=lambda row: row["bytes"])
    copy = largest["bytes"] / (1e-3 * largest["copy"])
    return copy, median(row["peak"] for row in found["products"])


def _measured(found: Found, section: str) -> list[dict[str, Any]]:
    rows = (row for row in found["rows"] if row["section"] == section)
    return [row for row in rows if row["status"] == "measured"]


def _ceiling(found: Found, name: str, rate: str) -> float:
    (row,) = (row for row in _measured(found, "ceilings") if row["name"] == name)
    return row[rate]


def _peak(found: Found, dtype: str, tf32: bool) -> float:
    kind = {"bfloat16": "bf16", "float32": "TF32" if tf32 else "IEEE float32"}[dtype]
    return _ceiling(found, f"matmul {kind}", "flop_per_s")


def _masked_products(found: Found) -> Iterable[Multiplied]:
    for section in PRODUCTS:
        rows = _measured(found, section)
        most = {row["layer"]: row["batch"] for row in sorted(rows, key=itemgetter("batch"))}
        for row in rows:
            if row["batch"] == most[row["layer"]]:
                seconds = 1e-6 * min(times["median_us"] for times in row["times"].values())
                full = seconds * _peak(found, row["dtype"], row["tf32"])
                shares = row["useful_flop"] / full, row["flop"] / full
                group = f"masked layers, {row['dtype']}"
                yield Multiplied(group, row["operator"], row["layer"], *shares)


def _plain_products(found: Found) -> Iterable[Multiplied]:
    for row in _measured(found, CUDNN):
        if row["batch"] == IMAGES:
            for which, share in row["shares"].items():
                group = f"dense convolutions, {row['dtype']}"
                yield Multiplied(group, f"cuDNN {which}", row["conv"], share, share)


def _bandwidths(rows: Sequence[Moved]) -> Figure:
    """Draw a bar for each kernel, from 0 to 1 and beyond, with its GB/s."""
    figure = Figure(figsize=(9, AROUND + LINE * len(rows)), layout="constrained")
    axis = figure.subplots()
    names = [f"{row.kernel}, {row.of}" for row in rows]
    bars = axis.barh(names, [row.share for row in rows], color="tab:blue", height=0.7)
    axis.axvline(1, color="black", ls=":", zorder=0)
    for text in axis.bar_label(
        bars, [f"{row.rate / GIGA:.3g} GB/s" for row in rows], padding=3, fontsize=8
    ):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.margins(x=0.15, y=0.01)
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
    axis.set(xlabel="bytes that have to move, a second, over those of a copy of as many")
    return figure


def _products(rows: Sequence[Multiplied]) -> Figure:
    """Draw a panel for each group: full dots are useful operations, rings dense-equivalent ones."""
    groups = list(dict.fromkeys(row.group for row in rows))
    layers = {name: list(dict.fromkeys(r.of for r in rows if r.group == name)) for name in groups}
    height = sum(AROUND + LINE * len(of) for of in layers.values())
    figure = Figure(figsize=(9, height), layout="constrained")
    ratios = [AROUND + LINE * len(of) for of in layers.values()]
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios, sharex=True)
    for axis, group in zip(axes[:, 0], groups, strict=True):
        _panel(axis, [row for row in rows if row.group == group], layers[group])
        axis.set(title=group)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    what = "useful (dots) and dense-equivalent (rings) operations over those of a dense product"
    figure.supxlabel(what, fontsize=9)
    return figure


def _panel(axis: Axes, rows: Sequence[Multiplied], layers: list[str]) -> None:
    for place, kernel in enumerate(dict.fromkeys(row.kernel for row in rows)):
        of_one = [row for row in rows if row.kernel == kernel]
        at = [layers.index(row.of) for row in of_one]
        colour = f"C{place}"
        axis.plot([row.useful for row in of_one], at, "o", color=colour, ms=4, label=kernel)
        axis.plot([row.dense for row in of_one], at, "o", color=colour, ms=6, mfc="none")
    axis.axvline(1, color="black", ls=":")
    axis.set_yticks(range(len(layers)), layers, fontsize=8)
    log_scale(axis, "x")
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
