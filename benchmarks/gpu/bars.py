"""The claims that a run decides, and its tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.gpu import correctness, elementwise, graphs, sanitize, selection, step, trainer
from benchmarks.gpu.result import FAILED, MEASURED, NOT_MEASURED, Entry, Result
from benchmarks.gpu.timing import CAPTURED

MET, MISSED = "met", "not met"
STYLES = {MET: "green", MEASURED: "green", MISSED: "red", FAILED: "red", NOT_MEASURED: "yellow"}


def bars(result: Result) -> list[Entry]:
    """Return each claim with its value, its bound and whether it is met, not met or not measured.

    A claim over several rows takes the worst; one of them unmeasured leaves it undecided.
    """
    return [
        _bar("wrong or failed rows of correctness", _failures(result), 0, at_least=False),
        *(
            _bar(f"{operator}: share of a copy, 10 M weights or more, cold",
                 _shares(result, operator), 0.85, at_least=True)
            for operator in elementwise.OPERATORS
        ),
        *(
            _bar(f"{operator}: microseconds of one launch, resnet20, warm",
                 [_median(result.find(elementwise.SECTION, f"{operator} resnet20 warm"),
                          elementwise.OURS)], 10.0, at_least=False)
            for operator in elementwise.OPERATORS
        ),
        _bar("edge-popup, times faster than a sort per layer", _popup(result), 20.0, at_least=True),
        *(
            _bar(f"masks' share of a step, {model}, {how}", _overhead(result, f"{model} {how}"),
                 0.05, at_least=False)
            for model in ("vgg16", "resnet18") for how in step.HOWS
        ),
        _bar("Gem-Miner in the package's loop, resnet20, batch 128: milliseconds of a step",
             _trained(result), 0.5, at_least=False),
    ]  # fmt: skip


def _bar(claim: str, values: Iterable[float | None], bound: float, *, at_least: bool) -> Entry:
    found = list(values)
    if not found or None in found:
        return {"claim": claim, "bound": bound, "value": None, "verdict": NOT_MEASURED}
    value = (min if at_least else max)(found)
    met = value >= bound if at_least else value <= bound
    return {"claim": claim, "bound": bound, "value": value, "verdict": MET if met else MISSED}


def _median(row: Entry, contender: str) -> float | None:
    return row.get("times", {}).get(contender, {}).get("median_us")


def _failures(result: Result) -> list[float | None]:
    sections = (
        correctness.MASK_SECTION, correctness.PRODUCT_SECTION, graphs.SECTION, sanitize.SECTION,
    )  # fmt: skip
    rows = [row for section in sections for row in result.of(section)]
    if any(row["status"] == FAILED for row in rows):
        return [sum(row["status"] == FAILED for row in rows)]
    return [None if row["status"] == NOT_MEASURED else 0 for row in rows]


def _shares(result: Result, operator: str) -> list[float | None]:
    names = (f"{operator} {network} cold" for network in ("vgg16", "resnet50"))
    return [result.find(elementwise.SECTION, name).get("share") for name in names]


def _popup(result: Result) -> list[float | None]:
    row = result.find(selection.SECTION, selection.POPUP)
    ours, sort = (_median(row, f"{who}, captured") for who in ("gemkern", "sort per layer"))
    return [sort / ours if ours and sort else None]


def _overhead(result: Result, name: str) -> list[float | None]:
    overhead = result.find(step.SECTION, name).get("overhead", {})
    return [overhead.get(step.FUSED)]


def _trained(result: Result) -> list[float | None]:
    row = result.find(trainer.SECTION, f"resnet20 {trainer.MINING} {trainer.ALONE}")
    median = _median(row, CAPTURED)
    return [median / 1e3 if median else None]


def section_table(result: Result, section: str) -> Table:
    """Return the rows of a section, each time as median [p10, p90] in microseconds."""
    rows = result.of(section)
    contenders = list(dict.fromkeys(name for row in rows for name in row.get("times", {})))
    table = plain_table(f"{section}, microseconds", "row", "status", *contenders, "note")
    for row in rows:
        times = [_time(row.get("times", {}).get(name)) for name in contenders]
        status = Text(row["status"], STYLES[row["status"]])
        table.add_row(Text(row["name"]), status, *times, Text(_note(row)))
    return table


def bars_table(found: Iterable[Entry]) -> Table:
    table = plain_table("bars", "claim", "bound", "value", "verdict")
    for bar in found:
        value = "-" if bar["value"] is None else f"{bar['value']:.3g}"
        verdict = Text(bar["verdict"], STYLES[bar["verdict"]])
        table.add_row(Text(bar["claim"]), f"{bar['bound']:g}", value, verdict)
    return table


def plain_table(title: str, *columns: str) -> Table:
    """Return a table without frames."""
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE)


def _time(times: Entry | None) -> str:
    if times is None:
        return "-"
    return f"{times['median_us']:.4g} \\[{times['p10_us']:.4g}, {times['p90_us']:.4g}]"


def _note(row: Entry) -> str:
    if "reason" in row:
        return row["reason"]
    notes = []
    if row.get("share") is not None:
        notes.append(f"{row['share']:.1%} of a copy")
    for key, unit in (("bytes_per_s", "TB/s"), ("flop_per_s", "TFLOP/s")):
        if key in row:
            notes.append(f"{row[key] / 1e12:.3g} {unit}")
    for shares in (row.get("overhead", {}), row.get("shares", {})):
        notes += [f"{name} {share:.1%}" for name, share in shares.items()]
    for name, epoch in row.get("epochs", {}).items():
        notes.append(
            f"{name}: epochs of {epoch['steps']} steps, the first {epoch['added_s']:.2f} s longer, "
            f"{epoch['replayed']} steps of a run replayed"
        )
    notes += [f"without {name}: {why}" for name, why in row.get("without", {}).items()]
    return "; ".join(notes)
