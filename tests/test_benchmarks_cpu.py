"""The benchmarks of the CPU count, time and check what they say they do."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import gemkern as gk
from benchmarks import (
    cpu,
    cpu_layers,
    cpu_networks,
    cpu_roofline,
    cpu_steps,
    result_files,
)
from benchmarks.cpu_floor import copy_bandwidth, traffic
from benchmarks.cpu_memory import peak_bytes
from benchmarks.cpu_networks import Case
from benchmarks.cpu_timing import interleaved

LAYER = ("ResNet-20", 16, 16, 32, 1, 128, 0.05, 1)
SMALL = Case("resnet8", density=0.1, batch=4)


def test_what_a_step_moves_is_counted_from_the_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2))
    counted = traffic(model, torch.randn(2, 3, 6, 6))
    images, wide, halved = 2 * 3 * 36, 2 * 4 * 36, 2 * 4 * 9
    convolution = images + wide + wide + images
    norm = wide
    pooling = wide + halved + halved + wide
    assert counted.moved == 4 * (convolution + norm + pooling)
    assert counted.sizes == [wide, halved]


def test_contenders_take_turns_for_as_long_as_asked() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in ("one", "other")}
    times = interleaved(contenders, 0.0, calls_in_a_row=2)
    assert calls == ["one", "other", *["one", "one", "other", "other"] * 3]
    assert {name: len(found) for name, found in times.items()} == {"one": 6, "other": 6}
    assert copy_bandwidth([1000, 20], 0.0) > 0


def test_a_row_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(cpu_steps, "peak_bytes", lambda case, contender: None)
    row = cpu_steps.measure(SMALL, 0.0)
    assert row.ratio == row.dense / row.sparse
    assert row.sparse_spread[0] <= row.sparse <= row.sparse_spread[1]
    kept = json.loads(cpu.keep([], [row], tmp_path).read_text())
    assert kept["steps"][0]["network"] == "resnet8"
    assert kept["steps"][0]["floor"] == pytest.approx(1e3 * row.floor_bytes / row.copy_bandwidth)


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = gk.accelerate

    def spoilt(model: nn.Module) -> nn.Module:
        fast = accelerate(model)
        with torch.no_grad():
            fast.classifier.weight.add_(0.1)
        return fast

    monkeypatch.setattr(cpu_networks.gk, "accelerate", spoilt)
    with pytest.raises(AssertionError, match="the sparse step's loss is wrong"):
        cpu_networks.steps_of(SMALL)


def test_memory_grows_with_the_batch() -> None:
    small, large = (peak_bytes(Case("resnet8", batch=batch), "contiguous") for batch in (16, 64))
    assert small is None or 0 < small < large


def test_every_layer_has_the_density_of_the_ticket() -> None:
    densities = cpu_networks.ticket_densities()
    model = cpu_networks.masked_network(Case("resnet20", masks="ticket"))
    layers = gk.optim.masked_layers(model)
    assert densities.keys() == layers.keys()
    assert max(densities.values()) > 10 * min(densities.values())
    for name, layer in layers.items():
        if layer.active.numel() > 2000:
            found = layer.active.float().mean().item()
            assert found == pytest.approx(densities[name], rel=0.3, abs=0.003)


def test_rows_end_with_the_time_and_the_last_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10))
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: next(clock))
    rows = iter("abcdef")
    assert list(cpu.until(2.5, rows)) == ["a", "b", "c"]
    assert next(rows) == "d", "a row was measured and lost"
    assert list(cpu.until(9, iter("xy"))) == ["x", "y"]


def test_what_there_was_time_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu_steps, "rows", lambda **options: iter(()))
    layers = [cpu_layers.Row(*LAYER, which, 1.0, (1.0, 1.0), 2.0, (2.0, 2.0), "contiguous", 2.0)
              for _ in range(6) for which in cpu_layers.PASSES]  # fmt: skip
    monkeypatch.setattr(cpu_layers, "rows", lambda **options: iter(layers))
    traffic = cpu_roofline.Traffic("threshold", "x", 1, 8, 1.0, (1.0, 1.0), 1.0, (1.0, 1.0), 8.0, 1)
    monkeypatch.setattr(cpu_roofline, "traffic_rows", lambda: iter([traffic]))
    monkeypatch.setattr(cpu_roofline, "product_rows", lambda: iter(()))
    cpu.main(out=tmp_path, minutes=1, step_seconds=0, layer_seconds=0)
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert path.name == f"{result_files.named('cpu', result_files.used('cpu'))}.json"
    assert len(kept["layers"]) == cpu.ROWS_OF_LAYER < len(layers)
    assert "Out of time" not in capsys.readouterr().out
    cpu.main(out=tmp_path, minutes=0, step_seconds=0, layer_seconds=0)
    assert json.loads(path.read_text())["layers"] == []
    assert "Out of time" in capsys.readouterr().out
