"""A schedule's seconds are sums over its epochs; the authors' way computes what it should."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.schedule import authors, report
from benchmarks.schedule.__main__ import rows_of
from benchmarks.schedule.walk import shortened
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.presets import resolve
from gemkern.tickets import imp_weights_left, weights_left


def test_a_walk_visits_the_densities_of_the_schedule() -> None:
    settings = resolve("digits", {"density": 0.1, "device": "cpu"}, ["mine_epochs=10"])
    few, epochs = shortened(settings)
    assert epochs == {"gem-miner": [3, 2, 2, 2, 1], "imp": [settings.own["imp"].imp_epochs]}
    laboratory = Laboratory(few)
    total = laboratory.maskable_weights
    planned = {
        "gem-miner": weights_left(total, 0.1, 10, 2),
        "imp": imp_weights_left(total, laboratory.matched_weights / total, 0.2),
    }
    for method, left in planned.items():
        rows = rows_of(laboratory, method, epochs[method], steps=10)
        assert [row["way"] for row in rows] == ["accelerated", "dense"]
        for row in rows:
            densities = [visit["density"] for visit in row["find"]]
            # IMP's last pruning is at its end, Gem-Miner's last freeze before it.
            visited = [total, *left] if method == "gem-miner" else [total, *left[:-1]]
            assert densities == pytest.approx([count / total for count in visited])
            assert row["finetune"]["density"] == pytest.approx(left[-1] / total)
            assert row["finetune"]["epochs"] == settings.finetune_epochs
            assert all(visit["ms"] > 0 for visit in row["find"])


def visit(epochs: int, ms: float, end_ms: float = 0.0) -> dict[str, object]:
    return {"epochs": epochs, "ms": ms, "quartiles": [ms / 2, 2 * ms], "end_ms": end_ms}


def test_hours_are_sums_over_epochs() -> None:
    rows = [
        {"method": method, "way": way, "finetune": visit(10, tuning),
         "find": [visit(epochs, ms), visit(epochs, ms, 3600.0)]}
        for way, factor in (("dense", 1), ("authors' way", 3))
        for method, epochs, ms, tuning in (
            ("gem-miner", 5, 100.0 * factor, 36.0), ("imp", 50, 100.0 * factor, 36.0)
        )
    ]  # fmt: skip
    found = {"rows": rows, "steps_an_epoch": 360, "imp_short_epochs": 5}
    table = report.markdown(found)
    # 10 epochs of 360 steps of 0.1 s, and a second of a freeze of 3.6.
    assert "| gem-miner | dense | 10 + 10 | 0.10 (0.05 to 0.20) | 0.14 (0.07 to 0.27) |" in table
    assert table.splitlines()[2].endswith("| 9.9x | 7.6x | 29.7x | 22.2x |")
    assert "| imp-short | dense | 10 + 10 | 0.10 " in table


def test_the_authors_step_of_mining_is_straight_through_with_their_regulariser() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 10))
    step = authors.mining_step(model, 0.5, lr=0.1, l2=0.01)
    layer = model[0]
    before, weight = layer.scores.detach().clone(), layer.weight.detach()
    x, y = torch.randn(5, 2, 4, 4), torch.arange(5)
    effective = (weight * (before > 0.5) * layer.flag).requires_grad_()
    other = model[2]
    second = other.weight * (other.scores > 0.5) * other.flag
    hidden = F.conv2d(x, effective).flatten(1)
    F.cross_entropy(F.linear(hidden, second), y).backward()
    step((x, y))
    assert effective.grad is not None
    expected = before - 0.1 * (effective.grad * weight * layer.flag + 2 * 0.01 * before)
    assert torch.allclose(layer.scores, expected, atol=1e-6)
    step((x, y))
    assert torch.equal(layer.weight, weight)


def test_the_authors_steps_of_weights_keep_their_masks() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 2, 4, 4), torch.arange(5)
    for make in (authors.pruning_step, authors.finetuning_step):
        model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Flatten(), nn.Linear(12, 10))
        before = model[0].weight.detach().clone()
        step = make(model, 0.3, lr=0.1, weight_decay=0.0)
        for _ in range(3):
            step((x, y))
        zeros = (model[0].weight == 0) if make is authors.pruning_step else ~model[0].flag.bool()
        assert 0 < zeros.sum() < zeros.numel()
        assert not torch.equal(model[0].weight, before)
