"""The picture holds the series it should, and is a PNG or nothing."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Run
from gemkern.report.figures import COLOURS, draw_race, race_figure, short_names

SETTINGS_BEFORE = dict(matplotlib.rcParams)
Race = tuple[list[Run], list[EpochRecord]]
CURVES = {
    "gem-miner find", "gem-miner finetune", "imp find", "imp finetune",
    "random finetune", "dense finetune",
}  # fmt: skip


def panels(figure: Figure) -> tuple[Axes, Axes, Axes]:
    accuracy, density, layers = figure.axes
    return accuracy, density, layers


def named(axes: Axes) -> dict[str, Any]:
    lines = {str(line.get_label()): line for line in axes.lines}
    return {label: line for label, line in lines.items() if not label.startswith("_")}


def test_the_file_is_a_png_of_sensible_size(tmp_path: Path, race: Race) -> None:
    race_figure(*race, tmp_path / "race.png")
    content = (tmp_path / "race.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert 1400 <= width <= 2000
    assert 1000 <= height <= 1500
    assert 30_000 < len(content) < 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["race.png"]


def test_a_full_disk_leaves_no_half_picture(
    tmp_path: Path, race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(figure: Figure, path: Path, **options: str) -> None:
        path.write_bytes(b"\x89PNG")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(GemkernError, match=r"race\.png: No space left"):
        race_figure(*race, tmp_path / "race.png")
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_is_an_error(tmp_path: Path, race: Race) -> None:
    for runs, epochs in (([], race[1]), (race[0], [])):
        with pytest.raises(GemkernError, match="nothing to draw"):
            race_figure(runs, epochs, tmp_path / "race.png")
    assert not list(tmp_path.iterdir())


def test_axes_carry_names_and_units(race: Race) -> None:
    accuracy, density, layers = panels(draw_race(*race))
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == (
        "training time, s",
        "accuracy, %",
    )
    assert (density.get_xlabel(), density.get_ylabel()) == ("epochs since the start", "density, %")
    assert layers.get_ylabel() == "density of the layer, %"


def test_the_way_is_a_line_of_best_epochs(race: Race) -> None:
    lines = named(draw_race(*race).axes[0])
    assert set(lines) >= CURVES
    for method in ("gem-miner", "imp", "random", "dense"):
        seeds = [[e for e in race[1] if (e.method, e.seed) == (method, s)] for s in (0, 1)]
        pairs = [pair for pair in zip(*seeds, strict=True) if pair[0].phase == "finetune"]
        line = lines[f"{method} finetune"]
        assert list(line.get_xdata()) == pytest.approx(
            [(a.seconds + b.seconds) / 2 for a, b in pairs]
        )
        means = [50 * (a.validation_accuracy + b.validation_accuracy) for a, b in pairs]
        so_far = [max(means[: number + 1]) for number in range(len(means))]
        assert list(line.get_ydata()) == pytest.approx(so_far)
        assert line.get_marker() == ""


def test_a_search_that_prunes_has_a_dot_for_the_best_epoch_of_each_density(race: Race) -> None:
    line = named(draw_race(*race).axes[0])["imp find"]
    assert line.get_marker() == "."
    seeds = [
        [e for e in race[1] if (e.method, e.phase, e.seed) == ("imp", "find", seed)]
        for seed in (0, 1)
    ]
    epochs = [
        (a.density, 50 * (a.validation_accuracy + b.validation_accuracy), a.seconds + b.seconds)
        for a, b in zip(*seeds, strict=True)
    ]
    densities = sorted({density for density, _, _ in epochs}, reverse=True)
    assert len(densities) == 4, "three rounds, and the ticket"
    best = [max((e for e in epochs if e[0] == one), key=lambda e: e[1]) for one in densities]
    assert list(line.get_ydata()) == pytest.approx([accuracy for _, accuracy, _ in best])
    assert list(line.get_xdata()) == pytest.approx([seconds / 2 for _, _, seconds in best])


def test_ends_are_points_with_their_deviations(race: Race) -> None:
    accuracy, *_ = panels(draw_race(*race))
    ends = {str(bars.get_label()): bars for bars in accuracy.containers}
    assert set(ends) == {"gem-miner", "imp", "random", "dense"}
    for method, bars in ends.items():
        own = [run for run in race[0] if run.method == method]
        seconds = [run.find_seconds + run.finetune_seconds for run in own]
        percent = [100 * run.accuracy_after for run in own]
        point, _, (x_bar, y_bar) = bars
        assert list(point.get_xdata()) == pytest.approx([fmean(seconds)])
        assert list(point.get_ydata()) == pytest.approx([fmean(percent)])
        assert to_hex(point.get_color()).upper() == COLOURS[method]
        for bar, values, axis in ((x_bar, seconds, 0), (y_bar, percent, 1)):
            (segment,) = bar.get_segments()
            ends_of_bar = [end[axis] for end in segment]
            assert ends_of_bar[1] - ends_of_bar[0] == pytest.approx(2 * stdev(values))


def test_a_single_seed_has_no_deviation(race: Race) -> None:
    runs = [run for run in race[0] if run.seed == 0]
    epochs = [epoch for epoch in race[1] if epoch.seed == 0]
    accuracy, *_ = panels(draw_race(runs, epochs))
    assert not any(bars.has_xerr or bars.has_yerr for bars in accuracy.containers)


def test_density_runs_on_from_the_search_on_a_log_axis(race: Race) -> None:
    _, density, _ = panels(draw_race(*race))
    assert density.get_yscale() == "log"
    lines = named(density)
    assert set(lines) == CURVES
    assert len(density.lines) == len(CURVES)
    assert list(lines["imp find"].get_xdata()) == list(range(1, 13))
    assert list(lines["imp finetune"].get_xdata()) == list(range(13, 19))
    assert list(lines["random finetune"].get_xdata()) == list(range(1, 7))
    assert list(lines["imp finetune"].get_ydata()) == pytest.approx([1.44] * 6)
    first_round = list(lines["imp find"].get_ydata())[:4]
    assert first_round == pytest.approx([100, 100, 100, 100 * 0.0144 ** (1 / 3)])


def test_searching_is_dashed_and_finetuning_solid(race: Race) -> None:
    for axes in panels(draw_race(*race))[:2]:
        for label, line in named(axes).items():
            assert line.get_linestyle() == ("--" if label.endswith("find") else "-")


def test_one_colour_a_method_everywhere(race: Race) -> None:
    figure = draw_race(*race)
    seen: dict[str, set[str]] = {}
    for axes in figure.axes:
        for label, line in named(axes).items():
            seen.setdefault(label.split()[0], set()).add(to_hex(line.get_color()).upper())
    (legend,) = figure.legends
    for line, text in zip(legend.get_lines(), legend.get_texts(), strict=True):
        if text.get_text() in seen:
            seen[text.get_text()].add(to_hex(line.get_color()).upper())
    assert seen == {method: {COLOURS[method]} for method in ("gem-miner", "imp", "random", "dense")}
    words = [text.get_text() for text in legend.get_texts()]
    lines = ["searching", "finetuning", "finetuned"]
    assert words == ["gem-miner", "imp", "random", "dense", *lines]


def test_a_method_of_another_name_gets_a_colour_of_its_own(race: Race) -> None:
    runs = [replace(run, method="somebody-s") for run in race[0] if run.method == "random"]
    epochs = [replace(epoch, method="somebody-s") for epoch in race[1] if epoch.method == "random"]
    figure = draw_race([*race[0], *runs], [*race[1], *epochs])
    colour = to_hex(named(figure.axes[0])["somebody-s finetune"].get_color()).upper()
    assert colour not in COLOURS.values()


def test_no_two_methods_have_one_colour() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_layers_stand_in_network_order(race: Race) -> None:
    *_, layers = panels(draw_race(*race))
    names = list(race[0][0].layer_density)
    assert [label.get_text() for label in layers.get_xticklabels()] == names
    line = named(layers)["imp"]
    tickets = [run.layer_density for run in race[0] if run.method == "imp"]
    expected = [50 * (tickets[0][name] + tickets[1][name]) for name in names]
    assert list(line.get_ydata()) == pytest.approx(expected)


def test_layers_have_short_names_that_tell_them_apart() -> None:
    own = ["conv", "stages.0.0.conv1", "stages.0.1.conv1", "layer1.0.conv", "classifier"]
    assert short_names(own) == ["conv", "0.0.conv1", "0.1.conv1", "layer1.0.conv", "classifier"]
    same = ["encoder.3.proj", "decoder.3.proj", "decoder.4.proj"]
    assert short_names(same) == ["encoder.3.proj", "decoder.3.proj", "4.proj"]


def test_an_empty_layer_is_drawn_at_zero(race: Race) -> None:
    *_, layers = panels(draw_race(*race))
    assert layers.get_yscale() == "symlog"
    assert layers.get_ylim()[0] == 0
    empty = list(race[0][0].layer_density.values()).index(0.0)
    line = named(layers)["gem-miner"]
    assert line.get_ydata()[empty] == 0
    assert not line.get_clip_on(), "its marker would be cut in half"


def test_layers_that_all_hold_weights_stand_on_a_log_axis(race: Race) -> None:
    runs = [run for run in race[0] if run.method != "gem-miner"]
    *_, layers = panels(draw_race(runs, race[1]))
    assert layers.get_yscale() == "log"


def test_a_method_without_a_ticket_has_no_line_among_the_layers(race: Race) -> None:
    runs = [replace(run, layer_density={}) if run.method == "dense" else run for run in race[0]]
    *_, layers = panels(draw_race(runs, race[1]))
    assert set(named(layers)) == {"gem-miner", "imp", "random"}


def test_a_race_without_any_ticket_can_be_drawn(tmp_path: Path, race: Race) -> None:
    runs = [replace(run, layer_density={}) for run in race[0] if run.method == "dense"]
    epochs = [epoch for epoch in race[1] if epoch.method == "dense"]
    race_figure(runs, epochs, tmp_path / "race.png")
    assert (tmp_path / "race.png").exists()


def test_a_single_epoch_can_be_seen(race: Race) -> None:
    epochs = [epoch for epoch in race[1] if epoch.epoch == 1 and epoch.phase == "finetune"]
    for axes in panels(draw_race(race[0], epochs))[:2]:
        assert all(line.get_marker() == "." for line in named(axes).values())


def test_many_layers_show_some_of_their_names(race: Race) -> None:
    deep = [replace(run, layer_density={f"layer{i}": 0.1 for i in range(100)}) for run in race[0]]
    *_, layers = panels(draw_race(deep, race[1]))
    names = [label.get_text() for label in layers.get_xticklabels()]
    assert 20 <= len(names) <= 40
    assert names[:2] == ["layer0", "layer3"]


def test_time_is_logarithmic_only_for_a_lopsided_race(race: Race) -> None:
    runs, epochs = race
    assert draw_race(runs, epochs).axes[0].get_xscale() == "linear"
    slow = [
        replace(epoch, seconds=epoch.seconds * (10 if epoch.method == "imp" else 1))
        for epoch in epochs
    ]
    assert draw_race(runs, slow).axes[0].get_xscale() == "log"


def test_matplotlib_is_left_as_it_was(race: Race) -> None:
    draw_race(*race)
    assert dict(matplotlib.rcParams) == SETTINGS_BEFORE
    asked = "import sys, gemkern.report.figures; print('matplotlib.pyplot' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "False\n"
