"""What is shown of runs and tickets, against numbers that were computed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.records import EpochRecord
from gemkern.experiments.run_folder import RunFolder
from gemkern.report import jobs_table, overlap_table, ticket_figure, ticket_table
from gemkern.report.show import dead_channels
from gemkern.tickets import Ticket

MASKS = {
    "a[0]": [[1, 0, 0], [0, 0, 0]],
    "b": [[[[1, 1]], [[0, 0]]], [[[1, 0]], [[0, 0]]]],
}
OTHERS = {
    "a[0]": [[1, 1, 0], [0, 0, 0]],
    "b": [[[[0, 1]], [[1, 1]]], [[[1, 0]], [[0, 1]]]],
}


def ticket(masks: Mapping[str, Any] = MASKS, **facts: Any) -> Ticket:
    facts = {"model": "net", "method": "imp", "seed": 3, "checksum": "", "weights": None, **facts}
    return Ticket({name: torch.tensor(mask).bool() for name, mask in masks.items()}, **facts)


def rows(table: Table) -> list[tuple[str, ...]]:
    columns = [[cell.plain for cell in column.cells] for column in table.columns]
    return list(zip(*columns, strict=True))


def rendered(table: Table, width: int = 110) -> str:
    console = Console(width=width, file=StringIO())
    console.print(table)
    return console.file.getvalue()


def test_a_ticket_layer_by_layer() -> None:
    table = ticket_table(ticket())
    assert rows(table) == [
        ("a[0]", "2x3", "1", "16.67", "1 of 2", "2 of 3"),
        ("b", "2x2x1x2", "3", "37.50", "0 of 2", "1 of 2"),
    ]
    assert "imp of net, seed 3: 4 weights, 28.57 %" in rendered(table)


def test_a_ticket_without_a_seed() -> None:
    assert "imp of net, no seed: 4 weights" in rendered(ticket_table(ticket(seed=None)))


@pytest.mark.parametrize(
    ("shape", "alive", "dead"),
    [
        ((2, 3), [], (2, 3)),
        ((2, 3), [(0, 0), (0, 1), (0, 2)], (1, 0)),
        ((2, 3), [(0, 2), (1, 2)], (0, 2)),
        # The last weight of a kernel keeps its channels.
        ((2, 3, 3, 3), [(1, 2, 2, 0)], (1, 2)),
        # Groups: an input is dead where it is so in each.
        ((4, 1, 3, 3), [(0, 0, 1, 1)], (3, 0)),
    ],
)
def test_channels_die_with_their_last_weight(
    shape: tuple[int, ...], alive: list[tuple[int, ...]], dead: tuple[int, int]
) -> None:
    mask = torch.zeros(shape, dtype=torch.bool)
    for place in alive:
        mask[place] = True
    assert dead_channels(mask) == dead


def test_what_two_tickets_have_in_common() -> None:
    # By chance: 1 * 2 / 6 and 3 * 5 / 8 weights, of the smaller one's 1 and 3, and 4 in all.
    expected = [
        ("a[0]", "1 of 1", "100.00", "33.33"),
        ("b", "2 of 3", "66.67", "62.50"),
        ("all", "3 of 4", "75.00", "55.21"),
    ]
    assert rows(overlap_table(ticket(), ticket(OTHERS))) == expected
    assert rows(overlap_table(ticket(OTHERS), ticket())) == expected


def test_a_ticket_has_all_in_common_with_itself() -> None:
    assert [row[2] for row in rows(overlap_table(ticket(), ticket()))] == ["100.00"] * 3


def test_an_empty_layer_has_nothing_in_common() -> None:
    empty = ticket({**MASKS, "a[0]": [[0, 0, 0], [0, 0, 0]]})
    assert rows(overlap_table(empty, ticket()))[0] == ("a[0]", "0 of 0", "-", "-")
    assert rows(ticket_table(empty))[0] == ("a[0]", "2x3", "0", "0.00", "2 of 2", "3 of 3")


def test_tickets_of_different_networks_are_not_compared() -> None:
    for masks in ({"b": MASKS["b"]}, {**MASKS, "a[0]": [[1], [0]]}):
        with pytest.raises(GemkernError, match="tickets of net and other have different layers"):
            overlap_table(ticket(), ticket(masks, model="other"))


@pytest.mark.parametrize("name", ["layers[bold]", "layers[/]", "[red]x[/red]", ":smile:"])
def test_names_are_no_markup(name: str) -> None:
    named = ticket({name: [[1]]}, model=name, method=name)
    for table in (ticket_table(named), overlap_table(named, named)):
        assert name in rendered(table)
    assert rendered(ticket_table(named)).count(name) == 3


def test_a_long_name_is_folded_and_nothing_is_cut() -> None:
    name = ".".join(f"block{number}" for number in range(12))
    shown = rendered(ticket_table(ticket({name: [[1]]})), width=80)
    assert "…" not in shown
    assert name in "".join(line.split()[0] for line in shown.splitlines() if "block" in line)
    assert "100.00" in shown


def job(method: str, *seeds: int) -> Job:
    return Job(method, seeds, {"density": 0.5})


def epoch(seed: int, number: int, density: float, validation: float) -> EpochRecord:
    return EpochRecord("imp", seed, "find", number, density, 1.0, validation, 1.0, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose jobs are in every state."""
    jobs = [job("imp", seed) for seed in range(6)] + [job("imp", 7, 8)]
    folder = RunFolder.create(tmp_path, config={}, command="gemkern race", jobs=jobs)
    _, waiting, running, stopped, failed, finished, together = jobs
    folder.folder_of(waiting)
    folder.folder_of(running).append(epoch(2, 1, 1.0, 0.25))
    for number in (1, 2):
        folder.folder_of(stopped).append(epoch(3, number, 1 / number, 0.1 * number))
    folder.folder_of(failed).fail(ZeroDivisionError("by [chance]"))
    folder.folder_of(finished).append(epoch(5, 1, 0.5, 0.125))
    folder.folder_of(finished).finish([], [])
    for number, densities, validations in (
        (1, (1.0, 1.0), (0.1, 0.2)),
        (2, (0.4, 0.5), (0.3, 0.6)),
    ):
        for seed, density, validation in zip((7, 8), densities, validations, strict=True):
            folder.folder_of(together).append(epoch(seed, number, density, validation))
    return folder


def test_jobs_in_every_state(folder: RunFolder) -> None:
    running = folder.look_at(job("imp", 2))
    before = sorted(folder.path.rglob("*"))
    with running.locked():
        table = jobs_table(folder)
    assert rows(table) == [
        ("imp", "0", "waiting", "-", "0", "-", "-"),
        ("imp", "1", "waiting", "-", "0", "-", "-"),
        ("imp", "2", "running", "find", "1", "100.00", "25.00"),
        ("imp", "3", "stopped", "find", "2", "50.00", "20.00"),
        ("imp", "4", "failed", "-", "0", "-", "-"),
        ("imp", "5", "finished", "find", "1", "50.00", "12.50"),
        # Seeds that train together: the means of their last epochs.
        ("imp", "7, 8", "stopped", "find", "4", "45.00", "45.00"),
    ]
    assert "imp, seed 4, failed: ZeroDivisionError: by [chance]" in rendered(table)
    assert {*folder.path.rglob("*")} - {*before} == {running.path / ".lock"}, "nothing is made"


def test_a_job_that_was_not_begun_has_no_tickets(folder: RunFolder) -> None:
    assert folder.tickets() == {}


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_a_configuration_that_is_no_object_is_named(folder: RunFolder, content: str) -> None:
    (folder.path / "config.json").write_text(content)
    with pytest.raises(GemkernError, match=r"config\.json is damaged \(it holds no object"):
        folder.jobs()


def test_a_damaged_job_is_named(folder: RunFolder) -> None:
    path = folder.folder_of(job("imp", 3)).path / "epochs.jsonl"
    path.write_text("{}\n")
    with pytest.raises(GemkernError, match=f"line 1 of {path} is damaged"):
        jobs_table(folder)


def drawn(tickets: Mapping[str, Ticket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures = []
    save = Figure.savefig

    def kept(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    ticket_figure(tickets, tmp_path / "ticket.png")
    assert (tmp_path / "ticket.png").read_bytes().startswith(b"\x89PNG")
    return figures[0]


def test_the_picture_holds_the_densities_of_all_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = {"one": ticket(), "other": ticket({"c": [[1, 0]], "b": OTHERS["b"]})}
    figure = drawn(tickets, tmp_path, monkeypatch)
    (axes,), (legend,) = figure.axes, figure.legends
    one, other = ([float(y) for y in line.get_ydata()] for line in axes.lines)
    assert one[:2] == pytest.approx([100 / 6, 37.5])
    assert other[1:] == pytest.approx([62.5, 50])
    assert math.isnan(one[2])
    assert math.isnan(other[0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a[0]", "b", "c"]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
    assert axes.get_ylabel() == "density of the layer, %"
    assert len({line.get_marker() for line in axes.lines}) == 2


@pytest.mark.parametrize("densities", [(0.31, 0.33), (0.02, 0.03), (0.2, 0.6), (0.001, 0.9)])
def test_numbers_stand_beside_the_axis(
    densities: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {}
    for density in densities:
        masks[f"{density}"] = (torch.arange(1000) < 1000 * density).view(10, 100).tolist()
    (axes,) = drawn({"one": ticket(masks)}, tmp_path, monkeypatch).axes
    low, high = axes.get_ylim()
    assert sum(low <= value <= high for value in axes.get_yticks()) >= 2
    assert all(text.get_text() for text in axes.get_yticklabels())


def test_an_empty_layer_stands_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = ticket({**MASKS, "c": [[0, 0]]})
    (axes,) = drawn({"one": empty}, tmp_path, monkeypatch).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([100 / 6, 37.5, 0])
    assert axes.get_ylim()[0] == 0


def test_names_in_the_picture_are_no_formulas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn({"$_$": ticket({"$_$": [[1]]})}, tmp_path, monkeypatch)
